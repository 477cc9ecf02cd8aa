"""Jobs: programs that Ray runs on the cluster.

Inside of a job, `report` tells how far it has come. Importing this needs neither Ray nor a cluster.
"""

from agentray.jobs.reporting import report

__all__ = ["report"]
