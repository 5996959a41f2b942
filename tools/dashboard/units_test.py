"""What figures look like."""

import unittest

from tools.dashboard import units


def plain(text):
    return text.replace("\u00a0", " ")


class UnitsTest(unittest.TestCase):

    def test_digits(self):
        self.assertEqual(units.digits(0), "0")
        self.assertEqual(units.digits(4.806), "4.81")
        self.assertEqual(units.digits(12345), "12,300")
        self.assertEqual(units.digits(0.00251), "0.00251")
        self.assertEqual(units.digits(999.6), "1,000")
        self.assertEqual(units.digits(float("nan")), "–")

    def test_durations(self):
        self.assertEqual(plain(units.duration(0.3)), "0.300 ns")
        self.assertEqual(plain(units.duration(1500)), "1.50 µs")
        self.assertEqual(plain(units.duration(2.5e6)), "2.50 ms")
        self.assertEqual(plain(units.duration(3e9)), "3.00 s")

    def test_a_span_has_one_unit(self):
        self.assertEqual(plain(units.span(408, 12200)), "0.408 to 12.2 µs")
        self.assertEqual(plain(units.span(4.7, 4.9)), "4.70 to 4.90 ns")

    def test_a_figure_keeps_its_unit(self):
        for text in (units.duration(1), units.ratio(1), units.size(64),
                     units.quantity(3, "calls")):
            self.assertNotIn(" ", text)

    def test_sizes(self):
        self.assertEqual(plain(units.size(64)), "64 B")
        self.assertEqual(plain(units.size(4096)), "4 KiB")
        self.assertEqual(plain(units.size(1 << 20)), "1 MiB")
        self.assertEqual(plain(units.size(1500)), "1500 B")

    def test_quantities(self):
        self.assertEqual(plain(units.quantity(64, "bytes")), "64 bytes")
        self.assertEqual(plain(units.quantity(1536, "bytes")), "1.50 KiB")
        self.assertEqual(plain(units.quantity(0, "calls")), "0 calls")
        self.assertEqual(plain(units.quantity(2.5, "s")), "2.50 s")
        self.assertEqual(plain(units.quantity(1200, "ns")), "1.20 µs")
        self.assertEqual(units.quantity(7, ""), "7")
        self.assertEqual(units.quantity("many", "calls"), "many calls")

    def test_moments(self):
        self.assertEqual(units.moment("2026-11-29T13:00:00Z"),
                         units.moment("2026-11-29T14:00:00+01:00"))
        self.assertIsNotNone(units.moment("2026-11-29T13:00:00").tzinfo)
        self.assertIsNone(units.moment("yesterday"))
        self.assertIsNone(units.moment(None))


if __name__ == "__main__":
    unittest.main()
