// SPDX-License-Identifier: Apache-2.0
#include "host/commands/commands.hpp"

int main(int argc, char** argv) {
    return kerf::host::run_kerf({argv + (argc > 0 ? 1 : 0), argv + argc});
}
