# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The client of the Hugging Face Hub, with errors that say how to fix them."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError

from .. import __version__


class HubError(OSError):
    """The Hub is unreachable or refused a request; the message says how to fix it."""


def open_repository(
    repo_id: str, kind: str, private: bool = False, revision: str | None = None, token: str | None = None
) -> tuple[HfApi, str]:
    """Creates a repository and a branch if they are missing.

    Args:
        repo_id: name of the repository; without owner, that of the token.
        kind: `"model"` or `"dataset"`.
        private, revision, token: as for `push_checkpoint`.

    Returns:
        The client, and the full name of the repository.

    Raises:
        HubError: a private repository was requested, but a public one exists.
    """
    api = HfApi(token=token, library_name="modeling-sparse-merit", library_version=__version__)
    repo_id = api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise HubError(f"{repo_id} exists and is public: name another repository, or make it private first.")
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True)
    return api, repo_id


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns errors of the network and the Hub into a `HubError` that says how to fix them.

    Args:
        repo_id: name of the repository.

    Raises:
        HubError: in place of the original error.
    """
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is not a valid name of a repository: {error}") from error
    except HTTPError as error:
        raise HubError(_explain(error, repo_id)) from error
    except RuntimeError as error:  # raised for failed uploads, with the actual error as its cause
        if not isinstance(error.__cause__, HTTPError):
            raise
        raise HubError(_explain(error.__cause__, repo_id)) from error


def _explain(error: BaseException, repo_id: str) -> str:
    """One line that explains an error and how to fix it."""
    if not isinstance(error, HfHubHTTPError):
        reason = " ".join(str(error).split()) or type(error).__name__
        return (
            f"The connection to {constants.ENDPOINT} broke while pushing to {repo_id} ({reason}). A push shows only "
            "once it is complete, so nothing is half-published: try again."
        )
    status, said = error.response.status_code, error.server_message or error.response.reason_phrase
    if status == 401 and "Repository not found" not in str(said):
        return (
            f"The Hub refuses the token ({status}: {said}): make one with write access and give it by --token or "
            "HF_TOKEN, or run `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"The Hub has no repository {repo_id}, or this token may not see it ({status}: {said}): check its name."
    if status == 403:
        return (
            f"This token may not write to {repo_id} ({status}: {said}): name a repository of your own account or "
            "organisation, or use a token with write access."
        )
    return f"The Hub refuses the push to {repo_id} ({status}: {said})."
