"""The configuration of a run: read from YAML with line numbers, validated, and written as YAML."""

from tfs_core.config.load import check_together as check_together
from tfs_core.config.load import config_from_mapping as config_from_mapping
from tfs_core.config.load import config_from_yaml as config_from_yaml
from tfs_core.config.load import load_config as load_config
from tfs_core.config.local_model import load_local_model as load_local_model
from tfs_core.config.relations import folder_name_problem as folder_name_problem
from tfs_core.config.resolved import config_differences as config_differences
from tfs_core.config.resolved import resolved as resolved
from tfs_core.config.resolved import to_yaml as to_yaml
from tfs_core.config.schema import Choice as Choice
from tfs_core.config.schema import RunConfig as RunConfig
