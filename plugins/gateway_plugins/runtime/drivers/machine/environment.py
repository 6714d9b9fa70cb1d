"""The environment of engines: a short list of the gateway's variables, and never its secrets.

An engine runs code that comes with models. So it gets only variables that processes need to find
programs, files and proxies, and those that engines and their libraries read; none of them if its
name ends like that of a secret. `environment` of a model and the option `secrets` add to them.
"""

from collections.abc import Mapping

NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "XDG_CACHE_HOME"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    }
)

PREFIXES = (
    *("LC_", "CUDA", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "HSA_", "GLOO_", "UCX_"),
    *("HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH", "PYTORCH_", "TRITON_", "OMP_", "MKL_"),
    *("VLLM_", "SGLANG_", "FLASHINFER_", "LMCACHE_"),
)

SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL", "CREDENTIALS")


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what an engine gets of `environ`, the gateway's own environment."""
    return {name: value for name, value in environ.items() if _passes(name)}


def _passes(name: str) -> bool:
    wanted = name in NAMES or name.startswith(PREFIXES)
    return wanted and not name.upper().endswith(SECRETS)
