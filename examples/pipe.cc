// Runs pipe_program.cc.

#include "mp/examples/programs.h"

int main() { mp::examples::PipeProgram(); }
