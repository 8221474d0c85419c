"""The scan: every fault that jupyter-book passes over, planted in a run or on a page, is found and named."""

import pytest
from conftest import Toy

from book.pipeline.layout import PipelineError
from book.pipeline.scan import scan_pages, scan_runs

IMAGE = {"output_type": "display_data", "data": {"image/png": "AAAA"}}
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "planted", "traceback": []}
OPTIONS = '{"figure": {"caption": "A dot.", "name": "fig-dot"}, "image": {"alt": "One dark dot."}}'


def stream(name, text):
    return {"output_type": "stream", "name": name, "text": text}


@pytest.fixture
def first_only(toy):
    toy.write("book/_toc.yml", "format: jb-book\nroot: book/index\nchapters: [{file: notebooks/01_first}]\n")
    return toy


def found_in_run(toy, *outputs, options=OPTIONS):
    """Findings when the first chapter's last cell, with these options, has shown these outputs."""
    toy.edit("notebooks/01_first.py", f"mystnb={OPTIONS}", f"mystnb={options}")
    toy.pair()
    toy.store("01_first", *outputs)
    return scan_runs(toy.book)


def test_a_captioned_figure_has_no_finding(first_only):
    assert found_in_run(first_only, IMAGE) == []
    svg = {"output_type": "display_data", "data": {"text/html": "<div><svg></svg></div>"}}
    first_only.store("01_first", svg)
    assert scan_runs(first_only.book) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            '{"figure": {"caption": "A dot.", "name": "fig-dot"}}',
            "shows a figure without an alt text that says what is seen",
        ),
        (OPTIONS.replace("One dark dot.", " "), "shows a figure without an alt text that says what is seen"),
        (OPTIONS.replace("One dark dot.", "_images/dot.png"), "shows a figure without an alt text that says"),
        (OPTIONS.replace("One dark dot.", "dot.PNG"), "shows a figure without an alt text that says"),
        (OPTIONS.replace("A dot.", ""), "shows a figure without a caption"),
        (OPTIONS.replace("fig-dot", ""), "shows a figure without a name"),
        (OPTIONS.replace("fig-dot", "fig-Dot"), "shows a figure without a name of the form fig-lower-case"),
    ],
)
@pytest.mark.parametrize("data", [{"image/png": "AAAA"}, {"text/html": "<svg></svg>"}], ids=["image", "drawing"])
def test_a_figure_that_lacks_something_is_named(first_only, options, message, data):
    figure = {"output_type": "display_data", "data": data}
    (finding,) = found_in_run(first_only, figure, options=options)
    assert finding.startswith("notebooks/01_first.py, cell ")
    assert message in finding


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([IMAGE, stream("stderr", "oh no")], "writes to stderr: oh no"),
        ([IMAGE, ERROR], "ends in an error: ValueError: planted"),
        ([IMAGE, stream("stdout", "UserWarning: old")], "prints a warning: UserWarning: old"),
        ([IMAGE, IMAGE], "shows 2 outputs under one caption"),
        ([stream("stdout", "no picture")], "has a caption but shows no figure"),
    ],
)
def test_a_faulty_output_is_named(first_only, outputs, message):
    (finding,) = found_in_run(first_only, *outputs)
    assert finding.startswith('notebooks/01_first.py, cell "fig-dot": ')
    assert message in finding


def test_a_missing_and_a_damaged_run_are_named(toy):
    path = toy.store("01_first", IMAGE)
    path.write_bytes(path.read_bytes()[:-100])
    damaged, missing = scan_runs(toy.book)
    assert f".cache/executed/{path.name}: this cached run is damaged" in damaged
    assert "notebooks/02_second.py: no executed run to show (never executed)" in missing


@pytest.fixture
def site(toy, pixel):
    """A site of one page, around the given HTML; returns the findings."""
    toy.write("book/_toc.yml", "format: jb-book\nroot: book/index\n")
    (toy.root / "_build/html/book").mkdir(parents=True)
    (toy.root / "_build/html/book/dot.png").write_bytes(pixel)
    toy.write("_build/html/index.html", "<meta http-equiv=refresh content='0; url=book/index.html'>")
    toy.write("_build/html/book/other.html", '<h1 id="there">Other</h1>')

    def findings(body: str) -> list[str]:
        toy.write("_build/html/book/index.html", f"<html><body><article>{body}</article></body></html>")
        return scan_pages(toy.book)

    return findings


IN_COLAB = f"https://colab.research.google.com/github/{Toy.url.removeprefix('https://github.com/')}/blob/main"
SOUND = """
<link rel="canonical" href="https://example.org/"> <h1 id="top">Title</h1>
<a href="#top">up</a> <a href="other.html#there">there</a> <a href="other.html">other</a> <a href="../">home</a>
<a href="https://example.org/x">elsewhere</a> <a href="mailto:a@b.org">mail</a>
<div class="cell_output"><figure id="fig-dot"><img src="dot.png" alt="One dark dot."><figcaption>A dot.</figcaption>
</figure></div> <img src="data:image/png;base64,AAAA" alt="A pixel.">
<a href="{colab}/notebooks/01_first.ipynb">run</a> <a href="{repository}/tree/main/data">data</a>
<pre>::: {note} $$x$$ [a](#b)</pre> <code>{ref}`x`</code> <span class="math">\\begin{aligned}</span>
""".replace("{colab}", IN_COLAB).replace("{repository}", Toy.url)


def test_a_sound_page_has_no_finding(site):
    assert site(SOUND) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f'<a href="{IN_COLAB}/notebooks/99_gone.ipynb">run</a>', "leads to no file of the repository"),
        (f'<a href="{Toy.url}/blob/main/gone.py?plain=1">source</a>', "leads to no file of the repository"),
        ("<p>::: {note}</p>", "a colon fence is left as text"),
        ("<p>{ref}`fig-x`</p>", "a role is left as text"),
        ("<p>```{figure} x</p>", "a fence is left as text"),
        ("<p>see :class:`X`</p>", "a mark of reStructuredText is left as text"),
        ("<p>see ``x</p>", "a mark of reStructuredText is left as text"),
        ("<p>see <cite>x</cite></p>", "single backticks in a docstring"),
        ("<p>$$x^2$$</p>", "a formula is left as text"),
        ("<p>\\begin{align}</p>", "a formula is left as text"),
        ("<p>Figure ??</p>", "an unresolved reference is left as text"),
        ("<dt>f(x: <i>&lt;Option object at 0x7f1fab44&gt;</i>)</dt>", "an address in memory is left as text"),
        ("<p>[the dot](#fig-dot)</p>", "a link is left as text"),
    ],
)
def test_a_fault_on_a_page_is_found_once_and_named(site, body, message):
    (finding,) = site(SOUND + body)
    assert finding.startswith("_build/html/book/index.html: ")
    assert message in finding


def test_a_page_that_is_too_heavy_is_named(site):
    (finding,) = site(f"{SOUND}<!-- {'x' * 1_100_000} -->")
    assert finding.startswith("_build/html/book/index.html: has 1.1 MB, over the limit of 1 MB")


def test_without_a_page_there_is_a_clear_error(toy):
    with pytest.raises(PipelineError, match=r"no page _build/html/book/index.html.*make pages"):
        scan_pages(toy.book)


def test_the_command_fails_and_tells_all_findings(site, toy):
    site("<p>Figure ??</p><p>```</p>")
    done = toy.command("scan")
    assert done.returncode == 1
    assert done.stderr.count("_build/html/book/index.html: ") == 2
    assert "2 findings." in done.stderr
