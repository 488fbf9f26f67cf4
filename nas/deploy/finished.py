"""A run that has finished, deployed to what its settings name. It stays finished whatever comes of that."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from nas.deploy.work import Asked, deploy
from nas.run.finished import Finished
from nas.run.settings import SearchSettings
from search_space.errors import one_line


def deploy_finished(
    finished: Finished, settings: SearchSettings, say: Callable[[str], None], failed: Callable[[str], None]
) -> None:
    """Every target's network for every runtime of `deploy`, by the defaults of `python -m nas.deploy`.

    say: is told what is done and what each card says; failed: in a line, what could not be made and how to ask again.
    """
    for found in finished.targets:
        for target in settings.deploy:
            try:
                asked = Asked(found.folder, target, settings.deploy_precisions, threads=settings.threads or 1)
                made = deploy(asked, say)
            except Exception as error:  # a converter may raise anything, and the run has finished
                again = ["python -m nas.deploy", shlex.quote(str(found.folder)), shlex.quote(f"target={target}")]
                again += [f"precision={settings.deploy_precision}"] if settings.deploy_precision else []
                failed(f"deploy={target} failed: {one_line(error)}; the run has finished: {' '.join(again)}")
            else:
                for line in (line for card, out in made for line in card.lines(str(out))):
                    say(line)
