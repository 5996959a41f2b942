"""HTML: what is escaped, and what is not."""

import json
import unittest

from tools.dashboard import markup


class MarkupTest(unittest.TestCase):

    def test_text_and_attributes_are_escaped(self):
        self.assertEqual(
            markup.element("p", "<b>&", title='"<'),
            '<p title="&quot;&lt;">&lt;b&gt;&amp;</p>')

    def test_markup_is_not_escaped_again(self):
        inner = markup.element("b", "<")
        self.assertEqual(markup.element("p", inner), "<p><b>&lt;</b></p>")
        self.assertEqual(markup.join([inner, "<"], ", "), "<b>&lt;</b>, &lt;")

    def test_attributes(self):
        self.assertEqual(
            markup.element("p", class_="a", aria_label="b", hidden=True,
                           id=None, open=False),
            '<p class="a" aria-label="b" hidden></p>')

    def test_children_may_be_nested_or_nothing(self):
        self.assertEqual(markup.element("p", ["a", [1, None]], None),
                         "<p>a1</p>")

    def test_names_may_be_broken(self):
        self.assertEqual(markup.name("a_b/<"),
                         "<code>a_<wbr>b/<wbr>&lt;</code>")
        self.assertEqual(markup.name("a/"), "<code>a/</code>")

    def test_table(self):
        text = markup.table("c", ["a", "b"], [["x", "<"], ["y", 2]], (1,),
                            [None, "why <"])
        self.assertIn('role="region" aria-label="c" tabindex="0"', text)
        self.assertIn("<caption>c</caption>", text)
        self.assertIn('<th scope="col" class="number">b</th>', text)
        self.assertIn('<th scope="row">x</th><td class="number">&lt;</td>',
                      text)
        self.assertEqual(text.count("<tr"), 4)
        self.assertIn('<td colspan="2"><p class="note">why &lt;</p></td>', text)

    def test_scripts_end_only_where_they_should(self):
        text = markup.script_text(
            'a = "</script>"; b = "</SCRIPT >"; c = "<!-- <script>"')
        self.assertNotIn("</script", text.lower())
        self.assertNotIn("<!--", text)
        self.assertEqual(
            text,
            'a = "<\\/script>"; b = "<\\/SCRIPT >"; c = "<\\!-- <script>"')
        self.assertNotIn("</script", markup.script_text("'</ScRiPt>'").lower())

    def test_json_is_the_same_json(self):
        value = {"a": "</script><!-- & \u2028"}
        text = markup.json_text(json.dumps(value))
        self.assertNotIn("<", text)
        self.assertEqual(json.loads(text), value)


if __name__ == "__main__":
    unittest.main()
