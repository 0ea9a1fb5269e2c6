"""`python -m smtp_sts` is the command `smtp-sts`."""

from smtp_sts.cli import main

main()
