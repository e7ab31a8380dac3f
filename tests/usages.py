"""Usage notes made of files at hand, for the tests that run them."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tfcompress import targets, tflite
from tfcompress.export import explorer, usage

MIXED = ['"', "'", "\\", "\n", "\r", "*/", "/*", "//", "$x", "${x}", "`", "```", "|", "</script>",
         "\u2028", "\u202e", "é", "名", "\U0001f600", "\0", "\x1b", "%s", "#{x}", "\\(x)", "?",
         "??/", "0", "a", " ", "__proto__", "$", "\t", "\x7f"]
CPP = ["g++", "-std=c++17", "-Wall", "-Werror", "-Wno-unused-function", "-fsyntax-only",
       "-x", "c++"]
# What the code calls, declared as in TensorFlow Lite's and ONNX Runtime's own headers.
TENSOR = """
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
union TfLitePtrUnion { float* f; int8_t* int8; uint8_t* uint8; int16_t* i16; int32_t* i32;
                       int64_t* i64; bool* b; };
struct TfLiteTensor { TfLitePtrUnion data; };
"""
HEADERS = {
    "tensorflow/lite/interpreter.h": """#include <memory>
namespace tflite {
struct SignatureRunner { TfLiteStatus AllocateTensors(); TfLiteStatus Invoke();
  TfLiteTensor* input_tensor(const char*); const TfLiteTensor* output_tensor(const char*) const; };
struct Interpreter { SignatureRunner* GetSignatureRunner(const char* key); };
}""",
    "tensorflow/lite/model_builder.h": """#include <memory>
namespace tflite { struct FlatBufferModel {
  static std::unique_ptr<FlatBufferModel> BuildFromFile(const char* name); }; }""",
    "tensorflow/lite/kernels/register.h": """
namespace tflite { struct OpResolver {};
namespace ops { namespace builtin { struct BuiltinOpResolver : OpResolver {}; } } }""",
    "tensorflow/lite/interpreter_builder.h": """#include <memory>
namespace tflite { struct FlatBufferModel; struct OpResolver; struct Interpreter;
struct InterpreterBuilder { InterpreterBuilder(const FlatBufferModel&, const OpResolver&);
  TfLiteStatus operator()(std::unique_ptr<Interpreter>*); }; }""",
    "tensorflow/lite/schema/schema_generated.h": """
namespace tflite { struct Model; const Model* GetModel(const void*); }""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
namespace tflite { struct MicroOpResolver {};
template <unsigned int> struct MicroMutableOpResolver : MicroOpResolver {
  TfLiteStatus AddConv2D(); TfLiteStatus AddFullyConnected(); TfLiteStatus AddReshape();
  TfLiteStatus AddSoftmax(); }; }""",
    "tensorflow/lite/micro/micro_interpreter.h": """
namespace tflite { struct Model; struct MicroOpResolver;
struct MicroInterpreter {
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t);
  TfLiteStatus AllocateTensors(); TfLiteStatus Invoke();
  TfLiteTensor* input(size_t); TfLiteTensor* output(size_t); }; }""",
    "onnxruntime_cxx_api.h": """#include <cstdint>
#include <cstddef>
enum OrtAllocatorType { OrtArenaAllocator }; enum OrtMemType { OrtMemTypeDefault };
namespace Ort {
struct MemoryInfo { static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType); };
struct RunOptions {};
struct Value { template <typename T> static Value CreateTensor(
  const MemoryInfo&, T*, size_t, const int64_t*, size_t); };
struct Session { std::vector<Value> Run(const RunOptions&, const char* const*, const Value*, size_t,
  const char* const*, size_t); };
}""",
}

KOTLIN = """package com.google.ai.edge.litert
enum class Accelerator { NONE, CPU, GPU, NPU }
class AssetManager
class Context { val assets = AssetManager() }
class TensorBuffer(val name: String) {
  fun writeInt(data: IntArray) {}
  fun writeFloat(data: FloatArray) {}
  fun writeInt8(data: ByteArray) { last = data }
  fun writeBoolean(data: BooleanArray) {}
  fun readInt(): IntArray = IntArray(0)
  fun readFloat(): FloatArray = FloatArray(0)
  fun readInt8(): ByteArray = last
  fun readBoolean(): BooleanArray = BooleanArray(0)
  companion object { var last = ByteArray(0) }
}
class CompiledModel {
  class Options(vararg val accelerators: Accelerator)
  fun createInputBuffer(inputName: String, signature: String? = null) = TensorBuffer(inputName)
  fun createOutputBuffer(outputName: String, signature: String? = null) = TensorBuffer(outputName)
  fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>,
          signature: String? = null) {}
  companion object {
    @JvmStatic fun create(assetManager: AssetManager, assetName: String,
                          options: Options = Options(Accelerator.CPU)) = CompiledModel()
  }
}
"""  # LiteRT's Kotlin API as far as the code uses it, by its own source


def write(out: Path, target: str, file: Path, **about) -> Path:
    """A copy of a .tflite or .onnx file with its usage note beside it; gives the file."""
    if file.suffix == ".onnx":
        from tfcompress.compress.onnx import graph as files

        inside = {}
    else:
        files, inside = tflite, explorer.read({"path": str(file)}, None)
    ends = {k: v for k, v in files.describe(file).items() if k in ("inputs", "outputs")}
    artifact = out / f"{target}{file.suffix}"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, artifact)
    usage.write(out / "usage", targets.load(target).to_dict(), artifact.name,
                inside | ends | about)
    return artifact


def load(path: Path):
    """A generated script as a module, which does not run its command line."""
    spec = importlib.util.spec_from_file_location("generated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(path: Path, *argv) -> str:
    done = subprocess.run([sys.executable, path, *map(str, argv)], capture_output=True, text=True,
                          cwd=path.parent.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(note: Path, language: str) -> list[str]:
    """The code of a note in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", note.read_text(), re.M | re.S)


def compiles(code: str, folder: Path) -> str:
    """What the compiler says against a piece of C++; empty where it is right."""
    for name, text in HEADERS.items():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#pragma once\n#include <vector>\n#include \"tensor.h\"\n{text}\n")
    (folder / "include/tensor.h").write_text("#pragma once\n" + TENSOR)
    done = subprocess.run([*CPP, f"-I{folder / 'include'}", f"-I{folder}", "-"], input=code,
                          capture_output=True, text=True)
    return done.stderr
