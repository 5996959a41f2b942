// A shared library that start_methods_test loads by itself.

extern "C" int Triple(int number) { return 3 * number; }
