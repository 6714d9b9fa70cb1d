"""The environment of evaluations: some of the gateway's variables, and never its secrets."""

from collections.abc import Mapping

NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "XDG_CACHE_HOME"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    }
)

PREFIXES = (
    *("LC_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "NLTK_", "TIKTOKEN_"),
    *("EVAL_", "EUROEVAL_", "LM_EVAL_", "INSPECT_"),
)

BUILDING = ("PIP_", "UV_")
"""Variables of the tools that build environments; they may hold the password of an index."""

SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL", "CREDENTIALS")

STRANGE = ("EVAL_RESULT_FILE", "EVAL_REPO_PATH")
"""Variables of the gateway itself."""


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what an evaluation gets of `environ`, the gateway's own environment."""
    return {name: value for name, value in environ.items() if _passes(name)}


def for_building(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the tools get that build an environment for an evaluation."""
    more = {name: value for name, value in environ.items() if name.startswith(BUILDING)}
    return {**scrubbed(environ), **more}


def _passes(name: str) -> bool:
    wanted = name in NAMES or name.startswith(PREFIXES)
    return wanted and name not in STRANGE and not name.upper().endswith(SECRETS)
