"""What is in a .tflite file: operators, tensors, quantization, MACs, sparsity, and where its bytes go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.tflite_file import Operator, Subgraph, Tensor, TfliteModel, read
from edgecompile.tflite_file.parts import bytes_by_part

if TYPE_CHECKING:
    from rich.console import Console

_QUANTIZED = frozenset({"int2", "int4", "uint4", "int8", "uint8", "int16", "uint16"})
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
# They change how numbers are stored and compute nothing: left out of the share of integer operators.
_CASTS = frozenset({"QUANTIZE", "DEQUANTIZE"})


def inspect_tflite(path: Path) -> dict[str, Any]:
    """Everything known about the file, as plain data for JSON. ModelError where the file is not a sound model.

    Keys: path, size [bytes], description, metadata, inputs, outputs, operators (in order, each with tensors,
    macs and weight_bytes), by_type (one row an operator type, most MACs first), totals, sizes [bytes] (weights,
    quantization_parameters, names, rest; they add up to size) and sparsity (one row a weight tensor).

    In totals, quantized_weights is the share of weight elements stored as integers of at most 16 bits, and
    integer_operators the share of operators with no floating-point input or output; None where there are none.
    """
    model = read(path)
    operators = [_operator(model, graph, op) for graph in model.subgraphs for op in graph.operators]
    weights = _weights(model)
    elements = sum(tensor.elements for _, tensor in weights)
    quantized = sum(tensor.elements for _, tensor in weights if tensor.dtype in _QUANTIZED)
    computing = [row for row in operators if row["type"] not in _CASTS]
    integer = [row for row in computing if not _has_float(row)]
    signature = model.signature
    sizes = _sizes(model)
    return {
        "path": str(path),
        "size": model.size,
        "description": model.description,
        "metadata": list(model.metadata),
        "inputs": [_plain(asdict(info)) for info in signature.inputs],
        "outputs": [_plain(asdict(info)) for info in signature.outputs],
        "operators": operators,
        "by_type": _by_type(operators),
        "totals": {
            "subgraphs": len(model.subgraphs),
            "operators": len(operators),
            "macs": model.macs,
            "weight_elements": elements,
            "weight_bytes": sizes["weights"],
            "quantized_weights": quantized / elements if elements else None,
            "integer_operators": len(integer) / len(computing) if computing else None,
        },
        "sizes": sizes,
        "sparsity": [_sparsity(model, graph, tensor) for graph, tensor in weights],
    }


def _operator(model: TfliteModel, graph: Subgraph, operator: Operator) -> dict[str, Any]:
    inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
    return {
        "subgraph": graph.index,
        "index": operator.index,
        "type": operator.name,
        "custom": operator.custom,
        "version": operator.version,
        "options": operator.options,
        "inputs": [_tensor(tensor) for tensor in inputs],
        "outputs": [_tensor(graph.tensors[index]) for index in operator.outputs if index >= 0],
        "macs": graph.macs(operator),
        "weight_bytes": sum(len(model.buffers[b]) for b in {t.buffer for t in inputs if t.is_constant}),
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    quantization: dict[str, Any] | None = None
    if tensor.quantization is not None:
        q = tensor.quantization
        quantization = {"channels": len(q.scales), "dimension": q.dimension if q.per_channel else None}
        if not q.per_channel:
            quantization |= {"scale": q.scales[0], "zero_point": q.zero_points[0]}
    return {
        "index": tensor.index,
        "name": tensor.name,
        "shape": list(tensor.shape),
        "shape_signature": list(tensor.shape_signature),
        "dtype": tensor.dtype,
        "constant": tensor.is_constant,
        "quantization": quantization,
    }


def _has_float(row: Mapping[str, Any]) -> bool:
    return any(tensor["dtype"] in _FLOATS for tensor in (*row["inputs"], *row["outputs"]))


def _weights(model: TfliteModel) -> list[tuple[Subgraph, Tensor]]:
    """Constants of rank 2 or more that hold real numbers, each buffer once: no biases, no shapes, no axes."""
    found: dict[int, tuple[Subgraph, Tensor]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            real = tensor.dtype in _FLOATS or (tensor.dtype in _QUANTIZED and tensor.quantization is not None)
            if tensor.is_constant and real and len(tensor.shape) >= 2 and not tensor.is_sparse:
                found.setdefault(tensor.buffer, (graph, tensor))
    return list(found.values())


def _sparsity(model: TfliteModel, graph: Subgraph, tensor: Tensor) -> dict[str, Any]:
    row = {"subgraph": graph.index, "tensor": tensor.index, "name": tensor.name, "shape": list(tensor.shape)}
    return {**row, "dtype": tensor.dtype, **asdict(model.sparsity(tensor))}


def _sizes(model: TfliteModel) -> dict[str, int]:
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    parts = bytes_by_part(model.path)
    sizes = {
        "weights": sum(len(model.buffers[buffer]) for buffer in {t.buffer for t in tensors if t.is_constant}),
        "quantization_parameters": parts["quantization"],
        "names": parts["names"],
    }
    return {**sizes, "rest": model.size - sum(sizes.values())}


def _by_type(operators: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for operator in operators:
        row = rows.setdefault(operator["type"], {"type": operator["type"], "count": 0, "macs": 0, "weight_bytes": 0})
        row["count"] += 1
        row["macs"] += operator["macs"]
        row["weight_bytes"] += operator["weight_bytes"]
    return sorted(rows.values(), key=lambda row: (-row["macs"], -row["count"], row["type"]))


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    return {**info, "shape": list(info["shape"])}


def render(summary: Mapping[str, Any], console: Console) -> None:
    """Print what `inspect_tflite` returned, as tables."""
    from rich.markup import escape
    from rich.table import Table

    from edgecompile.cli.tables import print_fitting

    totals, sizes = summary["totals"], summary["sizes"]
    console.print(f"[bold]{escape(summary['path'])}[/bold]  {summary['size']:,} B")
    if summary["description"]:
        console.print(escape(summary["description"]))
    for kind in ("inputs", "outputs"):
        for info in summary[kind]:
            scale = f"  scale {info['scale']:.6g}, zero point {info['zero_point']}" if info["scale"] is not None else ""
            console.print(f"{kind[:-1]:<6}  {escape(info['name'])}  {_type(info['dtype'], info['shape'])}{scale}")

    table = Table("#", "operator", "input", "weights", "output", title="Operators", title_justify="left")
    for column in ("MACs", "bytes"):
        table.add_column(column, justify="right")
    for row in summary["operators"]:
        table.add_row(
            str(row["index"]) if totals["subgraphs"] == 1 else f"{row['subgraph']}:{row['index']}",
            escape(row["type"]) + (" (custom)" if row["custom"] else ""),
            _listed(row["inputs"], constant=False),
            _listed(row["inputs"], constant=True),
            _listed(row["outputs"], constant=None),
            f"{row['macs']:,}" if row["macs"] else "",
            f"{row['weight_bytes']:,}" if row["weight_bytes"] else "",
        )
    print_fitting(table, console)

    table = Table("type", title="By type", title_justify="left")
    for column in ("count", "MACs", "weights, bytes"):
        table.add_column(column, justify="right")
    for row in summary["by_type"]:
        table.add_row(escape(row["type"]), str(row["count"]), f"{row['macs']:,}", f"{row['weight_bytes']:,}")
    table.add_section()
    table.add_row("all", str(totals["operators"]), f"{totals['macs']:,}", f"{totals['weight_bytes']:,}")
    print_fitting(table, console)

    if summary["sparsity"]:
        table = Table("weights", "type", title="Sparsity", title_justify="left")
        for column in ("zeros", "values"):
            table.add_column(column, justify="right")
        for row in summary["sparsity"]:
            kind = _type(row["dtype"], row["shape"])
            table.add_row(escape(row["name"]), kind, f"{row['zeros']:.1%}", f"{row['unique']:,}")
        print_fitting(table, console)

    parts = ", ".join(f"{name.replace('_', ' ')} {value:,} B" for name, value in sizes.items())
    console.print(f"size: {parts}", highlight=False)
    for name, what in (("quantized_weights", "weights quantized"), ("integer_operators", "operators without floats")):
        if totals[name] is not None:
            console.print(f"{what}: {totals[name]:.1%}", highlight=False)


def _type(dtype: str, shape: list[int]) -> str:
    # "\[": rich takes a bracket for markup.
    return dtype + r"\[" + "x".join("?" if size < 0 else str(size) for size in shape) + "]"


def _listed(tensors: list[dict[str, Any]], constant: bool | None) -> str:
    """Types and shapes in a cell; a scale for a whole tensor is not shown, one for each channel is."""
    cells = []
    for tensor in tensors:
        if constant is None or tensor["constant"] == constant:
            channels = (tensor["quantization"] or {}).get("channels", 1)
            per_channel = f" per channel ({channels})" if channels > 1 else ""
            cells.append(_type(tensor["dtype"], tensor["shape_signature"]) + per_channel)
    return "\n".join(cells)
