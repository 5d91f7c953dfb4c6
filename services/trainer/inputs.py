"""What an attempt works on, brought to this machine: models, data sets, checkpoints."""

import asyncio
from pathlib import Path

from msgspec import Struct

from libs.contracts.artifact_rpc import INPUTS, GetInputs, Inputs, LeaseLost
from libs.contracts.base import DatasetRef
from libs.contracts.scheduler import Checkpoint
from libs.contracts.scheduler_rpc import LeaseGranted
from services.trainer.archive import unpack
from services.trainer.base_model import resolve, resolve_adapter
from services.trainer.link import Link
from services.trainer.transfer import LeaseGone, download, patiently


class LocalInputs(Struct, frozen=True, kw_only=True):
    """Paths on this machine; ``checkpoint`` and ``start_from`` are unpacked folders."""

    model: Path
    adapter: Path | None
    dataset: Path | None
    validation: Path | None
    checkpoint: Path | None
    start_from: Path | None


@patiently
async def fetch(
    link: Link, lease: LeaseGranted, folder: Path, *, models_dir: Path, cache: Path
) -> LocalInputs:
    """Download into ``folder`` what is not there yet, verified.

    Raises LeaseGone, ModelUnavailable, tarfile.TarError; the errors of `download` after minutes.
    """
    inputs = await link.ask(INPUTS, GetInputs(job_id=lease.job_id, epoch=lease.epoch))
    if isinstance(inputs, LeaseLost):
        raise LeaseGone
    return LocalInputs(
        dataset=await _rows(link, lease.dataset, inputs.dataset_url, folder / "dataset.jsonl"),
        validation=await _rows(
            link, lease.validation, inputs.validation_url, folder / "validation.jsonl"
        ),
        checkpoint=await _checkpoint(
            link, lease.checkpoint, inputs.checkpoint_url, folder / "resume"
        ),
        start_from=await _checkpoint(
            link, lease.start_from, inputs.start_from_url, folder / "start"
        ),
        adapter=await _adapter(link, lease, inputs, cache),
        model=await resolve(
            lease.model.source,
            inputs.model_files,
            http=link.http,
            models_dir=models_dir,
            cache=cache,
        ),
    )


async def _rows(
    link: Link, dataset: DatasetRef | None, url: str | None, target: Path
) -> Path | None:
    if dataset is None or url is None:
        return None
    await download(link.http, url, target, sha256=dataset.sha256)
    return target


async def _checkpoint(
    link: Link, checkpoint: Checkpoint | None, url: str | None, folder: Path
) -> Path | None:
    """Training reads the step from the unpacked folder's name."""
    if checkpoint is None or url is None:
        return None
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    archive, target = folder / "checkpoint.tar", folder / f"step-{checkpoint.step}"
    await download(link.http, url, archive, sha256=checkpoint.sha256)
    await asyncio.to_thread(unpack, archive, target)
    return target


async def _adapter(link: Link, lease: LeaseGranted, inputs: Inputs, cache: Path) -> Path | None:
    if lease.model.adapter is None:
        return None
    return await resolve_adapter(
        lease.model.adapter, inputs.adapter_files, http=link.http, cache=cache
    )
