"""From .tflite to .tflite: quantization, calibration and passes over the file."""
