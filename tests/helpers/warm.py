"""Python programs as processes of their own: forks of one that has imported what is slow to import."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

# A program runs behind the loop, so that it ends as every other does.
SERVER = """
import gc, importlib, json, os, runpy, sys
importlib.import_module(sys.argv[1])

# Else every fork would look through all of torch's objects at its end, which takes a second.
gc.collect()
gc.freeze()
for line in sys.stdin:
    program, arguments, folder, environment, outputs = json.loads(line)
    if not os.fork():
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
os.chdir(folder)
os.environ.update(environment)
for number, name in enumerate([os.devnull, *outputs]):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
sys.argv = [program, *arguments]
sys.path[0] = os.path.dirname(program)
runpy.run_path(program, run_name="__main__")
"""


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


class Warm:
    def __init__(self, folder, imported):
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, imported], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, program, *arguments, **environment):
        """A file, or the text of a program, in the current folder, with its input closed."""
        outputs = [self.folder / name for name in ("stdout", "stderr")]
        if not os.path.exists(program):
            text, program = program, self.folder / "program.py"
            program.write_text(text)
        asked = [str(program), arguments, os.getcwd(), environment, list(map(str, outputs))]
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        return Done(int(self.server.stdout.readline()), *(path.read_text() for path in outputs))

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
