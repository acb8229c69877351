"""report.html: a bundle's manifest as one self-contained page, to be read, printed and sent."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from edgecompile import units
from edgecompile.measure import Measurement
from edgecompile.report import charts, formats, sustained, view


def render(manifest: Mapping[str, Any]) -> str:
    """The page for a manifest (`files` is not read: the page is itself one of them). Equal manifests, equal pages.

    Nothing is fetched when it is opened: styles, charts and the script that sorts tables are in the page.
    All text of the manifest is escaped: names come from models that others made.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(m=manifest, charts=charts, **view.page(manifest)) + "\n"


def without_page(manifest: Mapping[str, Any]) -> str:
    """What stands in for a page that could not be made."""
    reasons = "".join(f"<li>{html.escape(f'{what}: {why}')}</li>" for what, why in manifest["not_described"].items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>edgecompile</title>\n'
        f"<p>This page could not be made; manifest.json has all that is known of the bundle.</p>\n<ul>{reasons}</ul>\n"
    )


def render_sustained(measurements: Sequence[Measurement]) -> str:
    """The page of sustained benchmarks (devices/sustained.py)."""
    return _environment().get_template("sustained.html.j2").render(**sustained.page(measurements)) + "\n"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgecompile.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        size=units.format_size,
        mebibytes=units.format_mebibytes,
        ms=units.format_ms,
        seconds=units.format_seconds,
        count=units.format_count,
        date=formats.date,
        metric=formats.metric,
        number=formats.number,
        plain=formats.plain,
        shape=formats.shape,
        share=formats.share,
    )
    return environment
