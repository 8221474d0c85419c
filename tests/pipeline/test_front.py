"""What a reader meets first: the chapters' table, the gallery, the entries to cite, links to equations, the film."""

import base64
import io

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import ENTRY
from PIL import Image

import gausstools as gt
from book._ext import executed_outputs, gallery, moving_picture, paper_table
from book._ext.chapters import duration
from book._ext.film import Film, cached_film, film
from book._ext.generated import render
from book.pipeline import runs
from book.pipeline.layout import Book
from gausstools import figures, shipped
from gausstools.noise import seeded_noise


def test_the_table_has_claims_times_and_places_to_run(built):
    index = built.page("book/index").article
    rows = [list(row.find_all("td")) for row in index.select("table.chapters tbody tr")]
    assert [cells[0].get_text(" ", strip=True) for cells in rows] == [
        "First squares have areas, even small ones",
        "Second greetings | repeat",
    ]
    for slug, cells in zip(("01_first", "02_second"), rows, strict=True):
        assert cells[0].a["href"] == f"../notebooks/{slug}.html"
        assert cells[1].get_text(strip=True) == duration(built.manifests[slug]["seconds"])
        assert cells[2].a["href"] == built.toy.book.repository.colab(f"notebooks/{slug}.ipynb")
    assert built.manifests["01_first"]["processor"] in index.get_text()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (60, "1 min 0 s"), (103.5, "1 min 44 s")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_gallery_leads_to_the_figures(built):
    (entry,) = built.page("book/index").article.select("ul.gallery li")
    assert entry.a["href"] == "../notebooks/01_first.html#fig-dot"
    assert built.page("notebooks/01_first").find(id="fig-dot")
    assert entry.img["alt"] == "One dark dot."
    assert entry.img["loading"] == "lazy"
    assert entry.span.get_text() == "A dot."
    picture = (built.toy.root / "_build/html/book" / entry.img["src"]).resolve()
    assert Image.open(picture).size == (1, 1)
    assert entry.img.find_parent("a")["href"] == entry.a["href"]  # not a link to the picture's full size


def test_the_appendix_gathers_published_numbers_from_the_runs(built):
    page = built.page("book/appendix").article
    assert [cell.get_text() for cell in page.find_all("td")] == ["residual | at σ = 1", "0.016", "0.02", "1.25"]
    assert page.find("a", href="../notebooks/02_second.html").get_text() == "Second"
    assert "data/table.csv" in page.get_text()
    assert paper_table.KIND == figures.BESIDE_PAPER


def test_a_gallery_shows_the_still_picture_of_a_figure_that_moves(executed, tmp_path):
    notebook = executed.find("01_first").notebook
    still = "%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E"
    notebook.cells[-1].outputs[0].data = {"text/html": f'<div><img alt="x" src="data:image/svg+xml,{still}"></div>'}
    (figure,) = gallery.figures(notebook, tmp_path)
    assert figure["picture"].endswith(".svg")
    assert (tmp_path / figure["picture"]).read_text("utf-8") == "<svg xmlns='http://www.w3.org/2000/svg'/>"


def test_an_entry_to_cite(built):
    (paper,) = (block.get_text() for block in built.page("book/index").article.select("div.highlight-bibtex pre"))
    assert paper.strip() == ENTRY


def test_a_link_to_an_equation_reads_like_a_sentence(built):
    first, second = (built.page(f"notebooks/{slug}").article.get_text() for slug in ("01_first", "02_second"))
    assert "See (1) and its formula (1)." in first
    assert "See (1) of chapter 1, or that formula (1)." in second


def test_a_chapter_can_be_downloaded_as_the_notebook_that_it_is(built):
    page = built.page("notebooks/01_first")
    address = page.select_one("a.btn-download-source-button")["href"]
    downloaded = built.toy.root / "_build/html/notebooks" / address
    assert downloaded.read_text("utf-8") == built.toy.read("notebooks/01_first.ipynb")
    assert page.select_one("button.btn-download-pdf-button")["onclick"] == "window.print()"


def test_an_equation_of_the_appendix():
    written = "[(there)](91_proofs.ipynb#eq-area)"
    assert executed_outputs._EQUATION.sub(executed_outputs._refer, written) == "[](#eq-area) of the appendix"


# ---- the film


STEPS, SKIPPED, SEEDS = 6, 2, [3, 4]


@pytest.fixture(scope="module")
def drawn() -> Film:
    return film("digits", SEEDS, STEPS, SKIPPED)


def last_rows(drawn: Film) -> torch.Tensor:
    """The three rows of the last frame, values in [-1, 1]."""
    sheet = Image.open(io.BytesIO(base64.b64decode(drawn.sheet))).convert("L")
    height, width = drawn.shape
    assert sheet.size == (width, height * 3 * (STEPS + 1))
    pixels = torch.tensor(np.asarray(sheet)).reshape(-1, 3, height, width)[-1]
    return pixels / 127.5 - 1


@torch.no_grad()
def test_the_film_ends_where_the_samplers_end(drawn):
    network, gaussian = gt.pretrained.load("digits"), shipped.statistics("digits")
    sigmas = gt.karras_sigmas(STEPS)
    noise = 80.0 * seeded_noise(0, SEEDS, (1, 8, 8))
    *_, own = gt.samplers.heun(network, noise, sigmas)
    *_, after = gt.samplers.heun(network, gaussian.flow(noise, 80.0, float(sigmas[SKIPPED])), sigmas[SKIPPED:])
    formula = gaussian.flow(noise, 80.0, 0.0)
    for row, images in zip(last_rows(drawn), (own.x, formula, after.x), strict=True):
        shown = torch.cat([*images[:, 0]], dim=1).clamp(-1, 1)
        assert (row - shown).abs().mean() < 0.1  # WebP loses something
    rms = (after.x - own.x).flatten(1).square().mean(1).sqrt().mean()
    assert drawn.change == pytest.approx(rms.item(), rel=1e-4)


def test_the_film_counts_the_calls_of_heuns_method(drawn):
    network, asked = gt.pretrained.load("digits"), []

    class Counting(torch.nn.Module):
        event_shape = network.event_shape

        def forward(self, x, sigma):
            asked.append(sigma)
            return network(x, sigma)

    with torch.no_grad():
        list(gt.samplers.heun(Counting(), torch.zeros(1, 1, 8, 8), gt.karras_sigmas(STEPS)))
    assert drawn.calls[-1] == (len(asked), len(asked) - 2 * SKIPPED)
    assert drawn.calls[0] == (1, 0)
    assert drawn.calls[SKIPPED] == (2 * SKIPPED + 1, 1)


def test_the_jump_has_no_image_before_it_lands(drawn):
    assert [jump is None for _, jump in drawn.distances] == [i < SKIPPED for i in range(STEPS + 1)]


def test_the_film_is_drawn_once(toy, drawn, monkeypatch):
    drawings = []
    monkeypatch.setattr("book._ext.film.film", lambda *_: drawings.append(1) or drawn)
    inputs = runs.Inputs.of(Book(toy.root))
    again = [cached_film(toy.book, inputs) for _ in range(2)]
    assert len(drawings) == 1
    assert again[0] == again[1]
    toy.edit("gausstools/shapes.py", "size * size", "size")
    cached_film(toy.book, runs.Inputs.of(Book(toy.root)))
    assert len(drawings) == 2
    assert len(list((toy.book.cache / "moving-picture").iterdir())) == 1


def test_a_film_that_shows_something_else_is_known(drawn):
    true = Film([1], 1, [80.0, 8.0, 0.0], [(1, 0)] * 3, [(0.04, None), (0.08, 0.01), (0.4, 0.02)], 0.01, "", (8, 8))
    assert true.shows
    for distances in (
        [(0.2, None), (0.08, 0.01), (0.4, 0.02)],
        [(0.04, None), (0.08, 0.01), (0.2, 0.02)],
        [(0.04, None), (0.08, 0.01), (0.4, 0.2)],
    ):
        assert not Film(**{**vars(true), "distances": distances}).shows


def test_the_markup_is_a_still_picture_of_the_last_frame(drawn):
    page = BeautifulSoup(moving_picture.markup(drawn, "film.webp"), "lxml")
    (root,) = page.select(".moving-picture")
    assert f"--frame: {STEPS};" in root["style"]
    assert page.select_one(".controls").has_attr("hidden")
    assert [image["alt"] != "" for image in page.find_all("img")] == [True] * 3
    calls, fewer = drawn.calls[-1]
    assert [int(count.get_text()) for count in page.select("[data-row]")] == [calls, 0, fewer]
    assert f"{fewer} of {calls} network calls" in render("moving_picture_caption.jinja", film=drawn)
