"""`report.html`: the whole run on one self-contained page, without other files or network."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import ClassVar, Literal

import cv2
from pydantic import Field

from pipeline.atomic import write_text
from pipeline.contract import Artifact, Context, Options, RunSummary, Stage
from stages._kernels.textured_plane import textured_plane
from stages.report._facts import Facts, read_facts
from stages.report._markup import Markup, tag
from stages.report._previews import previews
from stages.report._scene import place
from stages.report._sections import failures, header, numbers, provenance, timings
from stages.report._splats import splats
from stages.report._timeline import timeline

__all__ = ["Config", "Model"]


class Config(Options):
    """Limits on the content of the page."""

    points: int = Field(
        120_000, ge=0, le=2_000_000, description="maximum number of points in the 3D viewer"
    )
    video_mb: float = Field(
        1.5, ge=0, le=100, description="larger preview videos are linked, not embedded, MB"
    )
    held_out: int = Field(
        4, ge=1, le=100, description="maximum number of held-out views beside their splats"
    )


class Model(Stage[Config]):
    """Builds the page from the manifest and the files of the run folder."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    @classmethod
    def compile_kernels(cls) -> None:
        """Compile the point renderer on a small scene."""
        from stages._rendering.point_renderer import render

        views, points = textured_plane()
        render(
            points.xyz,
            points.rgb,
            points.normals,
            K=views.intrinsics[0],
            T_world_camera=views.T_world_camera[0],
            size=(views.images.shape[2], views.images.shape[1]),
            point_size=points.voxel_size,
        )

    def open(self, context: Context) -> None:
        """Set the number of threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, run: RunSummary) -> None:
        """Write `report.html`."""
        folder = self.context.folder
        assert folder is not None, "the report is opened with a run folder"
        facts = read_facts(folder, run.manifest)
        write_text(folder / "report.html", self._page(facts))
        self.context.report(Artifact(path="report.html", kind="report"))

    def _page(self, facts: Facts) -> str:
        figures, data = place(facts, self.config.points, self.context.seed)
        video_bytes = int(self.config.video_mb * 1e6)
        # Without a 3D scene, the timeline comes first.
        sections = [
            failures(facts),
            *figures[:1],
            splats(facts, video_bytes, self.config.held_out),
            timeline(facts),
            previews(facts, video_bytes),
            tag("div", _section("The path", figures[1:]), numbers(facts), class_="twin"),
            timings(facts),
            provenance(facts),
        ]
        script = _asset("page.js")
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{facts.title} · reel3d"),
            tag("style", Markup(_asset("page.css"))),
        )
        body = tag(
            "body",
            tag("div", header(facts), tag("main", sections), class_="page"),
            data,
            tag("script", Markup(script)),
        )
        return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _section(title: str, figures: list[Markup]) -> Markup | None:
    return tag("section", tag("h2", title), figures, id="path") if figures else None


def _policy(script: str) -> str:
    """Return a content security policy that allows only this page's script, by its hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (files("stages.report") / name).read_text(encoding="utf-8")
