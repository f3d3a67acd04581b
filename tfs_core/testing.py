"""The former place of the checks for plugin authors, kept to say where they are now."""

raise ImportError("tfs_core.testing is now tfs_lab.testing: import it from there, after `pip install tfs-lab`")
