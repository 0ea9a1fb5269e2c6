"""Real mail servers as Debian packages them, for alice: Postfix, Exim, Sendmail.

Promises: each is configured by Debian's own files and the lines of its page in docs/, in a root
file system of its own; a message is given to it as a user would, and its log tells
what became of it.
Must not: know what the message should come to.
"""
