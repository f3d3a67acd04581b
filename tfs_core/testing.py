"""The former module of the checks for plugin authors. Importing it raises ImportError with the new name."""

raise ImportError("tfs_core.testing is now tfs_lab.testing: import it from there, after `pip install tfs-lab`")
