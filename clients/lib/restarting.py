"""Runs a client program with a broker of its own, which the program can have killed and started again.

    lib/restarting.py PROGRAM [ARGUMENT...]     with the broker's binary in POSTHOUSE

The program reads AMQP_URI as ever. When it prints the line "kill the broker", the broker gets
SIGKILL and is started again at the same address on the same data; then the program gets the line
"started again" on its standard input.
"""

import contextlib
import os
import subprocess
import sys
import tempfile

import brokers


def main():
    [port] = brokers.free_ports(1)
    with tempfile.TemporaryDirectory(prefix="posthouse-restarting-") as directory, open(f"{directory}/log", "w+") as log:

        def start():
            return brokers.start_posthouse(os.environ["POSTHOUSE"], f"{directory}/data", f"127.0.0.1:{port}", log)

        broker, uri = start()
        try:
            # With the virtual host outright; without it clients differ in what they connect to.
            environment = {**os.environ, "AMQP_URI": f"{uri}%2f"}
            program = subprocess.Popen(
                sys.argv[1:], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for line in program.stdout:
                if line != "kill the broker\n":
                    print(line, end="", flush=True)
                    continue
                broker.kill()
                broker.wait()
                broker, _ = start()
                with contextlib.suppress(BrokenPipeError):  # A program that has ended says why itself.
                    program.stdin.write("started again\n")
            code = program.wait()
        finally:
            stopped = brokers.stop_posthouse(broker)
    sys.exit(code or stopped)


main()
