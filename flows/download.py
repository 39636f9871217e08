"""`trainwright models get`: the model of a published version, from the DVC remote into a folder of one's own.

The version's commit is checked out aside, its report comes from the cache or from the remote, and every file of it is
hashed against what dvc.lock says there, before any is copied.
"""

import shutil
import tempfile
from pathlib import Path

from flows import dvc, registry, workspace
from trainwright.core import layout
from trainwright.core.errors import Fault, InputError, MachineryError


def get(root: Path, name: str, version: str, folder: Path) -> str:
    """Bring a version's model, or with "" that of the version in use, into a new folder. Returns what was done.

    The folder is written aside and renamed. Raises InputError where there is no such version, its data are removed or
    the folder cannot be made, MachineryError where a remote cannot be reached or holds other bytes than were published.
    """
    _require_new(folder)
    chosen = registry.find(root, name, version)
    with workspace.workspace(root, name, chosen.commit) as space:
        project, stage = dvc.Project(space.root), f"report@{name}"
        project.restore([stage])
        try:
            project.verify(stage)
        except MachineryError:  # what is damaged is out of the cache now: the remote may have it whole
            project.restore([stage])
            project.verify(stage)
        model = layout.Layout(space.root, name).stage("report") / "model"
        if not model.is_dir():
            raise InputError(Fault(str(chosen), "it holds no model", "See `trainwright models list` for others."))
        count = _copy(model, folder)
    return f"{chosen} is in {folder}: {count} files. Next: trainwright predict {folder} INPUT OUTPUT"


def _require_new(folder: Path) -> None:
    """Raises InputError where `folder` is there and is no empty folder."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(Fault(str(folder), "it is no folder", "Name a new folder."))
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(Fault(str(folder), "the folder is not empty", "Name a new folder, or an empty one."))


def _copy(model: Path, folder: Path) -> int:
    """Copy the files of `model` into `folder`, visible only when all are there. Returns how many."""
    files = layout.plain_files(model)
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=folder.parent))
        for file in files:
            target = aside / file.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            layout.flush(target)
        aside.chmod(0o755)  # mkdtemp made it private
        layout.flush(aside)
        aside.rename(folder)  # takes the place of an empty folder, and of no other
        layout.flush(folder.parent)
    except OSError as error:
        remedy = "Name a new folder where one may be made."
        raise InputError(Fault(str(folder), f"it cannot be written ({error.strerror})", remedy)) from None
    finally:
        if aside and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)
    return len(files)
