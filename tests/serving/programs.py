"""Programs on the PATH that record how they were called."""


def adder(folder, monkeypatch):
    """Function that adds a program and returns the file of its arguments.

    Args:
        folder: An empty folder, which becomes the first on the PATH.
        monkeypatch: Restores the PATH.
    """
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name, body="exit 0"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/{name}.arguments\n{body}\n'
        )
        program.chmod(0o755)
        return folder / f"{name}.arguments"

    return add
