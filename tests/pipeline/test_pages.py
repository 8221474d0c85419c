"""The pages: they show the outputs of exactly their source, or they are not built."""

import base64
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image, ImageChops
from sphinx.errors import ExtensionError

from book._ext import executed_outputs, page_markup
from book.pipeline.layout import PipelineError
from book.pipeline.pages import build_pages

FIRST = "notebooks/01_first"


def test_the_command_prints_the_page_to_open(built):
    assert built.done.stdout.strip() == f"6 pages built: {built.toy.root / '_build/html/index.html'}"


def test_a_page_shows_the_outputs_of_its_run(built):
    first = built.texts[FIRST]
    assert "area: 9" in first
    assert 'alt="One dark dot."' in first
    assert "A dot." in first
    assert "hellohello 7" in built.texts["notebooks/02_second"]


def test_a_page_says_where_its_outputs_come_from(built):
    manifest = built.manifests["01_first"]
    commit = built.toy.git("rev-parse", "HEAD")
    (note,) = [part for part in built.texts[FIRST].split("<div") if 'class="provenance' in part]
    assert f'href="{built.toy.url}/commit/{commit}"' in note
    assert commit[:7] in note
    assert "uncommitted" not in note
    assert f"in {manifest['seconds']:.0f} s" in note
    for fact in ("processor", "python", "torch", "gausstools"):
        assert manifest[fact] in note


def test_a_page_leaves_out_what_only_colab_needs_and_offers_colab(built):
    first = built.texts[FIRST]
    assert "google.colab" not in first
    assert "colab-badge.svg" not in first
    assert "colab.research.google.com/github/someone/toy-book/blob/main/notebooks/01_first.ipynb" in first


def test_a_figure_is_sent_light_and_is_still_what_the_chapter_drew(built):
    figure = built.page(FIRST).find("img", alt="One dark dot.")
    assert (figure["width"], figure["height"], figure["loading"]) == ("1", "1", "lazy")
    assert figure.parent["href"] == figure["src"]
    sent = built.toy.root / "_build/html/notebooks" / figure["src"]
    (drawn,) = [output.data["image/png"] for output in built.toy.outputs("01_first")[-1]]
    images = [Image.open(file).convert("RGBA") for file in (sent, BytesIO(base64.b64decode(drawn)))]
    assert sent.suffix == ".webp"
    assert ImageChops.difference(*images).getbbox(alpha_only=False) is None
    assert [path.name for path in sent.parent.iterdir() if path.is_file()] == [sent.name]


def test_a_page_loads_no_script_that_does_nothing_there(built):
    scripts = {
        name: {Path(tag["src"].split("?")[0]).name for tag in built.page(page).find_all("script", src=True)}
        for name, page in (("chapter", FIRST), ("search", "search"))
    }
    idle = {"fontawesome.js", "searchtools.js", "language_data.js", "searchindex.js"}
    assert scripts["chapter"] & idle == set()
    assert scripts["search"] & idle == idle - {"fontawesome.js"}
    assert "pydata-sphinx-theme.js" in scripts["chapter"]


def test_building_touches_no_tracked_file(built):
    assert not built.touched


def test_the_scan_finds_nothing(built):
    assert built.scanned.returncode == 0, built.scanned.stderr
    assert "6 pages scanned: no findings" in built.scanned.stdout


def test_a_change_of_the_library_reaches_the_pages(built):
    """The chapters did not change: `make book` executes that which uses it again, and builds the pages anew."""
    toy = built.toy
    toy.edit("gausstools/shapes.py", "size * size", "1000 + size")
    toy.edit("gausstools/balls.py", "How a ball looks.", "What it looks like.")
    done = toy.command("book")
    assert done.returncode == 0, done.stderr
    assert "notebooks/01_first.py: running (gausstools/shapes.py changed" in done.stdout
    assert "1 chapters executed, 1 up to date" in done.stdout
    assert "The book is ready" in done.stdout
    page = toy.read(f"_build/html/{FIRST}.html")
    assert "area: 1003" in page
    assert "area: 9" not in page
    assert "with uncommitted changes" in page
    for name in ("balls", "index"):
        page = toy.read(f"_build/html/book/api/{name}.html")
        assert "What it looks like." in page
        assert "How a ball looks." not in page


def test_pages_without_runs_name_the_notebooks(toy):
    with pytest.raises(PipelineError) as error:
        build_pages(toy.book)
    for slug in ("01_first", "02_second"):
        assert f"notebooks/{slug}.py: no executed run to show (never executed). Run `make execute`." in str(error.value)
    assert not (toy.root / "_build").exists()


def test_pages_refuse_an_outdated_run(executed):
    executed.edit("gausstools/words.py", "hello", "bye")
    with pytest.raises(PipelineError, match=r"notebooks/02_second.py: .*gausstools/words.py changed"):
        build_pages(executed.book)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_pages_refuse_a_damaged_run_by_name(executed, damage):
    path = executed.find("01_first").path
    data = path.read_bytes()
    path.write_bytes(data[:-200] if damage == "truncated" else data.replace(b"area: 9", b"area: 8"))
    with pytest.raises(PipelineError, match=rf"{path.name}: this cached run is damaged"):
        build_pages(executed.book)


@pytest.fixture
def read_by_sphinx(executed):
    """What Sphinx alone, without the checks before it, would parse in place of a notebook."""

    def read(docname: str) -> str:
        env = SimpleNamespace(doc2path=lambda name: f"{name}.ipynb", note_dependency=lambda path: None)
        app = SimpleNamespace(srcdir=executed.root, env=env)
        executed_outputs._look_around(app)
        source = [(executed.root / f"{docname}.ipynb").read_text("utf-8")]
        executed_outputs._insert(app, docname, source)
        return source[0]

    return read


def test_the_extension_inserts_the_outputs(read_by_sphinx):
    assert "area: 9" in read_by_sphinx("notebooks/01_first")


def test_the_extension_refuses_a_missing_run(executed, read_by_sphinx):
    executed.find("01_first").path.unlink()
    with pytest.raises(ExtensionError, match=r"notebooks/01_first.py: no executed run to show"):
        read_by_sphinx("notebooks/01_first")


def test_the_extension_refuses_a_damaged_run(executed, read_by_sphinx):
    path = executed.find("01_first").path
    path.write_bytes(path.read_bytes().replace(b"area: 9", b"area: 8"))
    with pytest.raises(ExtensionError, match=rf"{path.name}: this cached run is damaged"):
        read_by_sphinx("notebooks/01_first")


def test_the_extension_refuses_a_notebook_without_a_source(executed, read_by_sphinx):
    shutil.copy(executed.root / "notebooks/01_first.ipynb", executed.root / "notebooks/03_stray.ipynb")
    with pytest.raises(ExtensionError, match=r"03_stray.ipynb has no source"):
        read_by_sphinx("notebooks/03_stray")


def test_an_interactive_figure_has_its_alternative_text(executed):
    run = executed.find("01_first")
    run.notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", {"text/html": "<svg></svg>"})]
    shown = executed_outputs.page_notebook(run, executed.book.repository)
    assert (
        '<div role="group" aria-label="One dark dot."><svg></svg></div>' in shown.cells[-2].outputs[0].data["text/html"]
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [("_build", "pages"), ("_build/html", "pages"), (".cache", "execute"), (".cache/executing", "execute")],
)
def test_a_folder_that_cannot_be_written_is_a_clear_error(executed, name, command):
    shutil.rmtree(executed.root / name, ignore_errors=True)
    executed.write(name, "a file, where a folder should be")
    done = executed.command(command)
    assert done.returncode == 1
    assert f"at {executed.root / name}" in done.stderr
    assert "Check what is at this path, its owner and permissions" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_page_that_the_table_of_contents_lists_must_be_there(executed):
    executed.edit("book/_toc.yml", "01_first", "09_gone")
    with pytest.raises(PipelineError, match=r"book/_toc.yml lists notebooks/09_gone"):
        build_pages(executed.book)


def marked(body):
    context = {"body": body}
    app = SimpleNamespace(builder=SimpleNamespace(images={}))
    page_markup._mark(app, "page", "page.html", context, None)
    return context["body"]


def test_the_parameters_of_a_signature_are_a_list():
    signature = "<dt>f(<dl>\n<dd><em>a</em>,</dd>\n<dd><em>b</em></dd>\n</dl>)</dt>"
    listed = '<dt>f(<ul class="sig-params">\n<li><em>a</em>,</li>\n<li><em>b</em></li>\n</ul>)</dt>'
    assert marked(signature) == listed
    definitions = "<dl><dt>a</dt><dd>one</dd></dl>"
    assert marked(definitions) == definitions


def test_a_printed_line_is_an_element_and_the_text_is_the_same():
    begin = '<div class="output stream highlight-myst-ansi notranslate"><div class="highlight"><pre><span></span>'
    text = "one &lt; 1\n\n  two 5e-05\n"
    page = BeautifulSoup(marked(f"{begin}{text}</pre></div></div>"), "lxml")
    assert [line.get_text() for line in page.select(".printed-line")] == ["one < 1\n", "\n", "  two 5e-05\n"]
    assert page.get_text() == "one < 1\n\n  two 5e-05\n"
    assert page.select_one(".kept-together").get_text() == "5e-05"
    colours = f'{begin}<span class="red">one\ntwo</span>\n</pre></div></div>'
    assert marked(colours) == colours


def test_what_unfolds_is_called_by_what_it_says(built):
    folded = built.page(FIRST).select("article summary")
    assert folded
    assert not any(summary.get("aria-label") for summary in folded)
    contents = (
        '<a class="x" href="api.html">The library</a><details><summary><span></span></summary><ul></ul></details>'
    )
    summary = BeautifulSoup(page_markup._accessible(contents), "lxml").find("summary")
    assert summary["aria-label"] == "Pages of: The library"
