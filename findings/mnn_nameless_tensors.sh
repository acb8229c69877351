#!/usr/bin/env bash
# MNN 3.6.1 makes an empty model of a .tflite whose tensors have no names, and reports success.
#
# A tensor's name is an optional field of the TFLite schema, and LiteRT runs a file without names. MNN's converter
# (mnnconvert -f TFLITE) tells tensors apart by their names: of a file without any it keeps no operator, prints
# "Converted Success!" and ends with exit code 0. A name for each tensor, however short, is enough.
#
# Seen with MNN 3.6.1, ai-edge-litert 2.3.0, Python 3.11, x86-64:
#   named litert [[1.5, 2.5]]
#   nameless litert [[1.5, 2.5]]
#   named: Converted Success!, additions: 1
#   nameless: Converted Success!, additions: 0
# The nameless one's converter log has "inputTensors : [ Input1, ]" and "outputTensors: [ , ]"; its graph holds an Input
# and nothing else.
# Exit code: 0 while that is so, 1 where it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet MNN==3.6.1 ai-edge-litert==2.3.0 flatbuffers==25.9.23
cd "$folder"

cat >make.py <<'PY'
"""y = x + [0.5, 0.5], as named.tflite and nameless.tflite; what LiteRT makes of [1, 2] with each."""
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

for kind in ("named", "nameless"):
    tensors = []
    for name, buffer in (("x", 0), ("half", 1), ("y", 0)):
        tensor = schema.TensorT()
        tensor.name = name if kind == "named" else None
        tensor.shape, tensor.type, tensor.buffer = [1, 2], schema.TensorType.FLOAT32, buffer
        tensors.append(tensor)
    add = schema.OperatorT()
    add.opcodeIndex, add.inputs, add.outputs = 0, [0, 1], [2]
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [2], [add]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    empty, half = schema.BufferT(), schema.BufferT()
    half.data = np.frombuffer(np.array([0.5, 0.5], np.float32).tobytes(), np.uint8)
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [empty, half]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with open(f"{kind}.tflite", "wb") as file:
        file.write(builder.Output())
    engine = Interpreter(f"{kind}.tflite")
    engine.allocate_tensors()
    engine.set_tensor(engine.get_input_details()[0]["index"], np.array([[1, 2]], np.float32))
    engine.invoke()
    print(kind, "litert", engine.get_tensor(engine.get_output_details()[0]["index"]).tolist())
PY
cat >count.py <<'PY'
"""How many additions a converted model has."""
import sys

import MNN.expr

graph = MNN.expr.load_as_dict(sys.argv[1])
print(sum(v.op_type == "ADD" for v in graph.values()))
PY

"$folder/venv/bin/python" make.py 2>/dev/null | tee litert.txt
[ "$(grep -c '\[\[1.5, 2.5\]\]' litert.txt)" = 2 ] || { echo "changed: LiteRT doesn't run both files alike"; exit 1; }
for kind in named nameless; do
    "$folder/venv/bin/mnnconvert" -f TFLITE --modelFile $kind.tflite --MNNModel $kind.mnn --bizCode x >$kind.txt 2>&1 ||
        { echo "changed: mnnconvert refuses $kind.tflite"; exit 1; }
    grep -q 'Converted Success!' $kind.txt || { echo "changed: no success is reported for $kind.tflite"; exit 1; }
    found=$("$folder/venv/bin/python" count.py $kind.mnn 2>/dev/null | tail -1)
    echo "$kind: Converted Success!, additions: $found"
    case $kind-$found in
        named-1 | nameless-0) ;;
        *) echo "changed: $kind.tflite became a model with $found additions, expected 1 named and 0 nameless"; exit 1 ;;
    esac
done
