"""Changes the weights of running workers; no call meets a half-finished update.

gate.py                   holds calls while the weights change
metrics.py                samples about updates of the weights
sync/plugin.py            the plugin `weight_sync`: the gateway leads an update
trl/plugin.py             the plugin `trl`: a trainer leads it, the gateway forwards it to all
trl/paths.py              the paths of TRL's servers, old generation and new, and what each means
trl/broadcast.py          sends one request of the trainer to all workers
trl/required_version.py   keeps calls to workers with one required version of the weights
trl/fleet.py              which worker has completed which updates, and which are quarantined
"""
