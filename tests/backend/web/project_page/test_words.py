from __future__ import annotations

from backend.web.project_page import words


def test_names_between_backticks_become_code_and_nothing_else_becomes_html() -> None:
    said = words.coded('Set `alpha` to 0 for "a & b" <i>now</i>, or `beta`.')
    assert said == (
        "Set <code>alpha</code> to 0 for &#34;a &amp; b&#34; &lt;i&gt;now&lt;/i&gt;, or "
        "<code>beta</code>."
    )
    assert words.coded("a ` alone, <script>") == "a ` alone, &lt;script&gt;"
