"""The user of the machine whose rights evaluations have, if that is not the gateway's own."""

import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway import ConfigError
from gateway_plugins.evaluations.children.removing import remove

PROGRAMS = Path(__file__).parent.parent / "programs"

NOT_THEIRS = ("XDG_CACHE_HOME",)
"""Variables of the gateway that lead to folders of its own user."""

CHECK = "import os, sys; print(*(p for p in sys.argv[1:] if not os.access(p, os.R_OK | os.X_OK)))"


class User(msgspec.Struct, frozen=True):
    """A user; `home` is a folder."""

    name: str
    uid: int
    gid: int
    groups: list[int]
    home: str

    @property
    def ids(self) -> dict[str, object]:
        return {"uid": self.uid, "gid": self.gid, "groups": self.groups}

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of the gateway as this user has them."""
        kept = {name: value for name, value in environ.items() if name not in NOT_THEIRS}
        return {**kept, "HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def user_named(name: str | None) -> User | None:
    """Return the user of the option `user`. Raises ConfigError."""
    if name is None:
        return None
    if os.geteuid() != 0:
        raise ConfigError(
            f"plugin evaluations: `user` is {name!r}, and only root can start processes of another"
            " user: run the gateway as root, or without `user`"
        )
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise ConfigError(
            f"plugin evaluations: there is no user {name!r} (user) on this machine"
        ) from None
    if found.pw_uid == 0:
        raise ConfigError("plugin evaluations: `user` is root; name a user with fewer rights")
    groups = os.getgrouplist(name, found.pw_gid)
    return User(name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def check(user: User, python: str, folder: Path, *places: Path) -> None:
    """Raise ConfigError unless the user can start `python`, and reach the folder and `places`.

    The folder is made if there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(folder.stat().st_mode | 0o055)
    wanted = [str(one) for one in (folder, PROGRAMS, *places)]
    command = [python, "-I", "-c", CHECK, *wanted]
    try:
        done = subprocess.run(
            command,
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
            cwd="/",
            env={},
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise ConfigError(_problem(user, python, f": {error.strerror} (python)")) from None
    if done.returncode:
        raise ConfigError(_problem(user, python, f": {done.stderr.strip()} (python)"))
    if done.stdout.strip():
        raise ConfigError(_problem(user, done.stdout.strip()))


def _problem(user: User, what: str, why: str = "") -> str:
    return (
        f"plugin evaluations: the user {user.name!r} (user) cannot use {what}{why}; each folder on"
        " the way there must permit it, or choose another place"
    )


def renew(place: Path, user: User | None, top: Path) -> None:
    """Make an empty folder that belongs to the user, who may pass all folders from `top` on."""
    remove(place)
    keep(place, user, top)


def keep(place: Path, user: User | None, top: Path) -> None:
    """Make a folder that belongs to the user, unless it is there."""
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return
    if user is None:
        return
    os.chown(place, user.uid, user.gid)
    for parent in place.parents:
        if parent != top and top not in parent.parents:
            break
        parent.chmod(parent.stat().st_mode | 0o011)
