"""From .onnx to .onnx: quantization, QDQ nodes and passes over the graph."""
