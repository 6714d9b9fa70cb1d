"""Changing the weights of running workers: no call meets half of an update.

gate.py             where calls wait while the weights change
sync.py             the plugin `weight_sync`: the gateway leads an update
trl.py              the plugin `trl`: a trainer leads it, the gateway tells every worker
trl_paths.py        the paths of TRL's servers, old generation and new, and what each means
trl_broadcast.py    one request of the trainer's, told to all workers
trl_required.py     the one version of the weights that calls may meet
fleet.py            which worker has taken which updates whole, and who is kept apart
"""
