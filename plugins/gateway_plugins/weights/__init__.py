"""Changes the weights of running workers; no call meets a half-finished update.

gate.py             holds calls while the weights change
sync.py             the plugin `weight_sync`: the gateway leads an update
trl.py              the plugin `trl`: a trainer leads it, the gateway forwards it to every worker
trl_paths.py        the paths of TRL's servers, old generation and new, and what each means
trl_broadcast.py    sends one request of the trainer to all workers
trl_required.py     keeps calls to workers with one required version of the weights
fleet.py            which worker has completed which updates, and which are quarantined
"""
