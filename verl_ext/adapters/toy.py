"""The toy world of ``task=toy``: named in the configuration, built in the driver."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from verl_ext.adapters.errors import SettingsError, refuse_unknown

RESOLVER = "verl_ext_toy"
TEACHER_RESOLVER = "verl_ext_toy_teacher"  # of a paper that needs a teacher on any task
REWARD_RESOLVER = "verl_ext_toy_reward"
TEXTS_RESOLVER = "verl_ext_toy_texts"  # of a policy's own teacher, on any task
RESPONSE_RESOLVER = "verl_ext_toy_response_tokens"
JUDGE_RESOLVER = "verl_ext_toy_judge"  # of a paper whose responses are judged, on any task
TAGS_RESOLVER = "verl_ext_toy_tags"  # of a paper whose responses have a format, on any task
DEFAULT_VARIANT = "w_reinforce"
SCALES = "reward.custom_reward_function.reward_kwargs.scales"
# Where a run may name a part of the world; TEACHERS holds one entry per teacher of verl's own.
PLACES = (
    "data.train_files",
    "data.val_files",
    "actor_rollout_ref.model.path",
    "algorithm.verl_ext.teacher.path",
)
TEACHERS = "distillation.teacher_models"


def register_resolver() -> None:
    """Makes ``${verl_ext_toy:model}`` the path in the user's cache, or another part's.

    The parts are ``train`` and ``val``, and where the variant has teachers ``teacher`` (its first)
    and ``teacher_NAME``.
    """
    OmegaConf.register_new_resolver(RESOLVER, _path, replace=True)
    OmegaConf.register_new_resolver(TEACHER_RESOLVER, _teacher, replace=True)
    OmegaConf.register_new_resolver(REWARD_RESOLVER, _reward, replace=True)
    OmegaConf.register_new_resolver(TEXTS_RESOLVER, _texts, replace=True)
    OmegaConf.register_new_resolver(RESPONSE_RESOLVER, _response_tokens, replace=True)
    OmegaConf.register_new_resolver(TAGS_RESOLVER, _tags, replace=True)
    OmegaConf.register_new_resolver(JUDGE_RESOLVER, _judge, replace=True)


def _reward(*, _root_: Any) -> str:
    """The variant's reward function, as verl names a module."""
    from verl_ext.toy import variants

    return f"pkg://{variants.reward_of(variant(_root_))}"


def _teacher(*, _root_: Any) -> str | None:
    """The toy's teacher where the run is on the toy and asks the reference worker; else nobody."""
    from verl_ext.toy import variants

    asks_reference = OmegaConf.select(_root_, "algorithm.verl_ext.teacher.source") == "ref"
    on_toy = in_use(_root_) and variants.recipe_of(variant(_root_)).teachers
    if not (on_toy and asks_reference):
        return None
    return _path("teacher", _root_=_root_)


def _texts(*, _root_: Any) -> dict[str, str]:
    """The words that the toy's model knows hints by, where the run is on the toy; else none."""
    from verl_ext.toy.hints import TEXTS

    return dict(TEXTS) if in_use(_root_) else {}


def _response_tokens(*, _root_: Any) -> int:
    """The tokens of a response of the variant."""
    from verl_ext.toy import variants

    return variants.response_tokens_of(variant(_root_))


def _tags(*, _root_: Any) -> dict[str, list[str]]:
    """The short tags of the toy's model where the run is on its free-form variant; else R1's."""
    from verl_ext.reward_fns.response_format import THINK_ANSWER
    from verl_ext.toy import free_form, variants

    if in_use(_root_) and variants.is_free_form(variant(_root_)):
        return {name: list(pair) for name, pair in free_form.TAGS.items()}
    return {"think": list(THINK_ANSWER.think), "answer": list(THINK_ANSWER.answer)}


def _judge(part: str, *, _root_: Any) -> Any:
    """A judge that is simulated where the run is on the toy; else nobody."""
    from verl_ext.toy.hidden_quality import JUDGE

    return JUDGE[part] if in_use(_root_) else None


def _path(part: str, *, _root_: Any) -> str:
    from verl_ext.toy import world

    return str(world.world_of(variant(_root_)).part(part))


def variant(config: DictConfig) -> str:
    """The variant of the toy world this run trains on."""
    return str(OmegaConf.select(config, "algorithm.verl_ext.toy") or DEFAULT_VARIANT)


def in_use(config: DictConfig) -> bool:
    """Whether the run's data, its model or a teacher is the toy world's."""
    return bool(_places_in_use(config))


def _places_in_use(config: DictConfig) -> list[str]:
    teachers = OmegaConf.select(config, TEACHERS) or {}
    places = [*PLACES, *(f"{TEACHERS}.{name}.model_path" for name in teachers)]
    return [place for place in places if f"${{{RESOLVER}:" in _as_written(config, place)]


def _as_written(config: DictConfig, key: str) -> str:
    """The text of a value whose interpolations stay as they are; empty where there is none."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent)
    if not isinstance(node, DictConfig):
        return ""
    raw: Any = OmegaConf.to_container(node, resolve=False)
    return str(raw.get(name, ""))


def check(config: DictConfig) -> None:
    """Refuses a variant that does not exist, parts and scales of rewards that it does not have.

    Raises:
        SettingsError: names the nearest variant or data source, or the parts there are.
    """
    from verl_ext.toy import reward, variants

    try:
        recipe = variants.recipe_of(variant(config))
    except ValueError as error:
        raise SettingsError(f"algorithm.verl_ext.toy: {error}") from error
    for place in _places_in_use(config):
        try:
            OmegaConf.select(config, place)
        except InterpolationResolutionError as error:
            raise SettingsError(f"{place}: {str(error).splitlines()[0]}") from error
    scales = OmegaConf.select(config, SCALES) or {}
    try:
        reward.check_scales(scales)
    except ValueError as error:
        raise SettingsError(f"{SCALES}: {error}") from error
    refuse_unknown(SCALES, scales, [source for source, _ in recipe.train])


def provide(config: DictConfig) -> None:
    """Builds the variant's toy world, its teachers included, unless the cache has it."""
    if in_use(config):
        from verl_ext.toy import world

        world.ensure(variant(config), cache_dir=None, progress=True)
