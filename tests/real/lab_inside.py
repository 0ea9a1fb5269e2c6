"""Run inside a booted container: a small Internet, and the configuration of a daemon in it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from smtp_sts.lab.world import World


async def main() -> None:
    """Publish bob.example, write /etc/smtp-sts.toml, say so, and go on until killed."""
    async with World() as world:
        await world.publish("bob.example")
        authorities = Path("/etc/smtp-sts-ca.pem")
        shutil.copyfile(world.ca_file, authorities)  # the daemon does not see our /tmp
        authorities.chmod(0o644)
        Path("/etc/smtp-sts.toml").write_text(
            '[policy]\nworkers = 2\n[dns]\nnameservers = ["{}:{}"]\n'.format(*world.names.address)
            + f'[network]\nhttps_port = {world.https_port}\nca_file = "{authorities}"\n'
            'allow_private_addresses = true\n[log]\nformat = "json"\n',
            encoding="utf-8",
        )
        print("the lab is open", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
