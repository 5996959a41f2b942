"""HTML from Python, in which whatever comes from outside is escaped."""

import html
import re


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value):
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(str(value)))


def join(parts, between=""):
    return Markup(escape(between).join(escape(part) for part in parts))


def element(tag, *children, **attributes):
    """<tag ...>children</tag>. A trailing underscore is dropped and others
    become hyphens, as in class_ and aria_label; True is an attribute without a
    value, and None and False are none. Nested lists of children are flat."""
    text = "".join(
        f" {_attribute(name)}" if value is True
        else f' {_attribute(name)}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{tag}{text}>{''.join(_flat(children))}</{tag}>")


def _attribute(name):
    return name.rstrip("_").replace("_", "-")


def _flat(children):
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)):
            yield from _flat(child)
        else:
            yield escape(child)


def name(text):
    """A benchmark's name as code, which may be broken after / and _."""
    parts = re.split("(?<=[/_])(?=.)", str(text))
    return element("code", join(parts, Markup("<wbr>")))


def table(caption, heads, rows, numeric=(), notes=None):
    """In a box of its own that scrolls, which the keyboard reaches too. The
    first cell of a row is its heading; the columns `numeric` are aligned. If
    there are `notes`, one for each row, those that are not empty stand below
    their rows."""
    def cell(tag, index, content, scope=None):
        return element(tag, content, scope=scope,
                       class_="number" if index in numeric else None)

    head = element("tr", [cell("th", index, text, "col")
                          for index, text in enumerate(heads)])
    body = []
    for row, note in zip(rows, notes or [None] * len(rows)):
        body.append(element("tr", [
            cell("th", 0, row[0], "row"),
            [cell("td", index, content)
             for index, content in enumerate(row[1:], start=1)],
        ], class_="noted" if note else None))
        if note:
            body.append(element("tr", element(
                "td", element("p", note, class_="note"), colspan=len(heads))))
    return element(
        "div",
        element("table", element("caption", caption),
                element("thead", head), element("tbody", body)),
        class_="scroll", role="region", aria_label=caption, tabindex="0",
    )


def script_text(source):
    """JavaScript that can stand in a <script>: what would end it, or change how
    it is read, occurs only in strings, where a backslash changes nothing."""
    return Markup(re.sub("<(?=/script|!--)", r"<\\", source,
                         flags=re.IGNORECASE))


def json_text(text):
    """JSON that can stand in a <script>."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e")
                  .replace("&", "\\u0026"))
