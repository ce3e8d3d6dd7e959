"""One small export that the tests of the serving side share."""

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of a model whose version 1 nobody changes."""
    from tests import films

    folder = tmp_path_factory.mktemp("exported") / "export"
    done = films.run_export(folder, films.build_student(films.build_schema()))
    return done.path.parent
