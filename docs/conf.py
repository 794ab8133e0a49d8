"""Settings of the documentation; CONTRIBUTING.md has the commands."""

import doctest
import re
import sys
from pathlib import Path

from docutils.nodes import field_body, reference, strong, term

sys.path.insert(0, str(Path(__file__).parent))
from api_pages import write_api_pages
from sphinx.addnodes import pending_xref

import skvaecf

project = "skvaecf"
author = "The skvaecf developers"
copyright = "2026, The skvaecf developers"
version = release = skvaecf.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # readers get formulas without a network, and nobody hears of it
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "charts",
    "measurements",
]
exclude_patterns = ["_build"]
nitpicky = True

# API: a page per public object, from what the package exports.
write_api_pages(Path(__file__).parent / "api")
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

# The blocks of the pages, as a reader would copy them one after the other. Those of the docstrings
# are run by pytest.
doctest_test_doctest_blocks = ""
doctest_default_flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "copyfile_regex": "",
    "image_srcset": ["2x"],
    "write_computation_times": False,
    "min_reported_time": 1e6,  # the time of the machine that built the pages says little
    "capture_repr": (),  # what is meant to be read is printed
    "first_notebook_cell": (
        '# Install skvaecf first, with the extra "examples": see the page "Installation".\n'
        "%matplotlib inline"
    ),
    # ``-t no_figures`` leaves the examples unrun.
    "plot_gallery": not tags.has("no_figures"),  # noqa: F821
    "abort_on_example_error": True,
}

# A piece of a file ends where its code does.
highlight_options = {"default": {"stripnl": True}}
# What is copied is code: neither prompts nor what was printed.
copybutton_selector = "div:not(.highlight-none) > div.highlight > pre"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "skvaecf"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["skvaecf.css"]
html_copy_source = False
html_domain_indices = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "skvaecf"},
    "header_links_before_dropdown": 8,
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["version"],
}
# Pages that stand alone have no neighbours to list.
ALONE = ("installation", "quick_start", "choosing", "evaluation", "comparing", "recipes", "serving")
html_sidebars: dict[str, list[str]] = {page: [] for page in ALONE}
html_sidebars["recipes/*"] = []


# Defaults in signatures, as a caller would write them.
DEFAULTS = {
    "=SCORERS": "=(ndcg_at_k, recall_at_k.at(20))",
    "=K_VALUES": "=(1, 2, 5, 10, 20, 50, 100)",
    f"={skvaecf.ndcg_at_k!r}": "=ndcg_at_k",
}


def name_defaults(app, what, name, obj, options, signature, return_annotation):
    """Replace the names of private constants, and objects, by what a caller would write."""
    for found, written in DEFAULTS.items():
        signature = signature and re.sub(re.escape(found) + r"(?=[,)])", written, signature)
    return signature, return_annotation


def unlink(app, doctree):
    """NDCG@100 is no mail address, and attributes that are properties have no page."""
    for link in list(doctree.findall(reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(link.children)
    for body in doctree.findall(field_body):
        for link in list(body.findall(pending_xref)):
            if isinstance(link.parent, term) and link["reftype"] == "obj":
                link.replace_self(strong("", link.astext()))


def break_lines(app, pagename, templatename, context, doctree):
    """Let long names break between their parts, and short code and formulas not at all."""
    if "body" in context:
        body = re.sub(
            r'(?<=<span class="pre">)[^<]{30,}(?=</span>)|(?<=<h1>)\w{24,}',
            lambda name: re.sub(r"[_/(=]|::|\b(?=\.\w)", r"\g<0><wbr>", name[0]),
            context["body"],
        )
        body = re.sub(r'(?<=<span class="sig-paren">\()</span>', r"\g<0><wbr>", body)
        body = re.sub(
            r'<code class="docutils literal notranslate">.*?</code>',
            lambda code: (
                f'<span class="skvaecf-unbroken">{code[0]}</span>'
                if "</span> <span" in code[0] and len(re.sub(r"<.*?>", "", code[0])) <= 20
                else code[0]
            ),
            body,
        )
        formula = r'<span class="math notranslate nohighlight">[^<]*</span>[.,;:)]+'
        context["body"] = re.sub(formula, r'<span class="skvaecf-unbroken">\g<0></span>', body)


def setup(app):
    """Add what no extension does."""
    app.connect("autodoc-process-signature", name_defaults)
    app.connect("doctree-read", unlink)
    app.connect("html-page-context", break_lines)
