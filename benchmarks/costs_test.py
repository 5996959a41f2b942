import pathlib
import unittest

from benchmarks import costs


class CostsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.found = {
            cost["name"]: cost
            for cost in costs.measure(pathlib.Path(__file__).parent.parent)
        }

    def value(self, name):
        return self.found[name]["value"]

    def test_nothing_enters_the_kernel_unless_it_has_to(self):
        for name in ("lock", "semaphore", "event", "queue", "pipe"):
            self.assertEqual(self.value(f"system_calls/{name}"), 0, name)

    def test_system_calls_are_counted(self):
        # There is no process without a fork and a wait.
        for method in ("fork", "forkserver", "spawn"):
            self.assertGreaterEqual(
                self.value(f"system_calls/process_{method}"), 2, method)

    def test_memory(self):
        # A cache line at least, and its handle.
        self.assertGreaterEqual(self.value("bytes/a Lock"), 64)
        # A page of its own would be too much.
        self.assertLess(self.value("bytes/a Lock"), 4096)
        self.assertGreater(self.value("bytes/a Queue<int> of 100, unused"), 400)
        self.assertGreater(self.value("bytes/worker"), 4096)
        self.assertGreater(self.value("bytes/program"), 10_000)

    def test_every_cost_has_a_title_and_a_unit(self):
        for name, cost in self.found.items():
            self.assertTrue(cost["title"], name)
            self.assertIn(cost["unit"], ("system calls", "bytes", "%"), name)


if __name__ == "__main__":
    unittest.main()
