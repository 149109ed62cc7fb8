"""The libraries' own predictors and everyone else's. Each adapter is one short function, or two.

A peer that wants to join: write a `Contestant` anywhere and pass ``--contestant package.module:NAME``.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .contestants import LIBRARY, LINK, PEER, Contestant, Predict
from .shapes import Info


def _sklearn_model(info: Info) -> Any:
    import sklearn

    # The library's own settings for speed: skip the scan for NaN and the check of parameters on each call.
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
    return pickle.loads(info.model.read_bytes())


def library_model(info: Info) -> Any:
    """The model as an object of the library that trained it."""
    if info.shape.library == "xgboost":
        import xgboost

        booster = xgboost.Booster(model_file=str(info.model))
        booster.set_param({"nthread": 1})
        return booster
    if info.shape.library == "lightgbm":
        import lightgbm

        return lightgbm.Booster(model_file=str(info.model))
    return _sklearn_model(info)


def _estimator(info: Info) -> Any:
    """Like `library_model`, with XGBoost's scikit-learn wrapper instead of its Booster."""
    if info.shape.library != "xgboost":
        return library_model(info)
    import xgboost

    wrapper = xgboost.XGBRegressor() if info.shape.task == "regression" else xgboost.XGBClassifier()
    wrapper.load_model(info.model)
    return wrapper


# The library itself.


def _library(info: Info, model: Any, folder: Path) -> Predict:
    if info.shape.library == "xgboost":
        return lambda X: model.inplace_predict(X, predict_type="margin", validate_features=False)
    if info.shape.library == "lightgbm":
        return lambda X: model.predict(X, raw_score=True, num_threads=1)
    return _sklearn_scores(model)


def _sklearn_scores(model: Any) -> Predict:
    """What an ensemble adds up, by the method that returns it."""
    names = ("decision_function", "predict_proba", "predict")
    scores: Predict = next(getattr(model, name) for name in names if hasattr(model, name))
    return scores


def _library_link(info: Info, model: Any, folder: Path) -> Predict:
    if info.shape.library == "xgboost":
        return lambda X: model.inplace_predict(X, validate_features=False)
    if info.shape.library == "lightgbm":
        return lambda X: model.predict(X, num_threads=1)
    return lambda X: model.predict_proba(X)[:, 1]


def _library_predict(info: Info, model: Any, folder: Path) -> Predict:
    predict: Predict = model.predict if info.shape.library == "sklearn" else _library_link(info, model, folder)
    return predict


def _library_leaves(info: Info, model: Any, folder: Path) -> Predict:
    if info.shape.library == "xgboost":
        import xgboost

        return lambda X: model.predict(xgboost.DMatrix(X, nthread=1), pred_leaf=True)
    if info.shape.library == "lightgbm":
        return lambda X: model.predict(X, pred_leaf=True, num_threads=1)
    return model.apply


# ONNX Runtime.


def _onnx_build(info: Info, model: Any, folder: Path) -> None:
    if info.shape.library == "sklearn":
        import skl2onnx

        example = np.zeros((1, info.shape.features), np.float32)
        converted = skl2onnx.to_onnx(model, example, options={id(model): {"zipmap": False}})
    else:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        inputs = [("X", FloatTensorType([None, info.shape.features]))]
        if info.shape.library == "xgboost":
            converted = onnxmltools.convert_xgboost(model, initial_types=inputs)
        else:
            converted = onnxmltools.convert_lightgbm(model, initial_types=inputs, zipmap=False)
    (folder / "model.onnx").write_bytes(converted.SerializeToString())


def _onnx_load(info: Info, model: Any, folder: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    run, names, column = session.run, [session.get_outputs()[-1].name], session.get_inputs()[0].name
    if info.shape.task == "binary":
        return lambda X: run(names, {column: X})[0][:, 1]
    return lambda X: run(names, {column: X})[0]


# oneDAL, by daal4py.


def _onedal_refuses(info: Info) -> str | None:
    if info.shape.columns == "categories":
        return "daal4py does not convert LightGBM models with categorical splits"
    return None


def _onedal_load(info: Info, model: Any, folder: Path) -> Predict:
    import daal4py
    from daal4py.mb import convert_model

    daal4py.daalinit(nthreads=1)
    if info.shape.library == "sklearn":
        # daal4py takes a scikit-learn forest by way of Treelite only, and answers with the second class's share.
        import treelite

        return convert_model(treelite.sklearn.import_model(model)).predict
    converted = convert_model(model)
    if info.shape.task == "regression":
        return converted.predict
    if info.shape.task == "binary":
        return lambda X: converted.predict_proba(X)[:, 1]
    return converted.predict_proba


# Treelite's interpreter, and TL2cgen's C code.


def treelite_model(info: Info, model: Any) -> Any:
    import treelite

    if info.shape.library == "xgboost":
        return treelite.frontend.load_xgboost_model(str(info.model), format_choice="ubjson")
    if info.shape.library == "lightgbm":
        return treelite.frontend.load_lightgbm_model(str(info.model))
    return treelite.sklearn.import_model(model)


def _model_or_file(info: Info) -> Any:
    return _sklearn_model(info) if info.shape.library == "sklearn" else str(info.model)


def _gtil_load(info: Info, model: Any, folder: Path) -> Predict:
    import treelite

    converted, predict = treelite_model(info, model), treelite.gtil.predict
    return lambda X: predict(converted, X, nthread=1, pred_margin=True)


def _tl2cgen_build(info: Info, model: Any, folder: Path) -> None:
    import tl2cgen

    converted = treelite_model(info, model)
    units = min(16, converted.num_tree)
    tl2cgen.export_lib(converted, toolchain="gcc", libpath=str(folder / "model.so"), params={"parallel_comp": units})


def _tl2cgen_load(info: Info, model: Any, folder: Path) -> Predict:
    import tl2cgen

    predictor, matrix = tl2cgen.Predictor(str(folder / "model.so"), nthread=1), tl2cgen.DMatrix
    return lambda X: predictor.predict(matrix(X), pred_margin=True)


# lleaves.


def _lleaves_build(info: Info, model: Any, folder: Path) -> None:
    import lleaves

    lleaves.Model(model_file=model).compile(cache=str(folder / "model.o"), raw_score=True)


def _lleaves_load(info: Info, model: Any, folder: Path) -> Predict:
    import lleaves

    compiled = lleaves.Model(model_file=str(info.model))
    compiled.compile(cache=str(folder / "model.o"), raw_score=True)
    return lambda X: compiled.predict(X, n_jobs=1)


def _lightgbm_only(info: Info) -> str | None:
    return None if info.shape.library == "lightgbm" else "lleaves takes LightGBM models only"


# Hummingbird.


def _hummingbird_refuses(info: Info) -> str | None:
    if info.shape.columns == "categories":
        return "Hummingbird does not convert LightGBM models with categorical splits"
    return None


def _hummingbird_load(info: Info, model: Any, folder: Path) -> Predict:
    import torch
    from hummingbird.ml import convert

    torch.set_num_threads(1)
    example = np.zeros((2, info.shape.features), np.float32)
    converted = convert(model, "torch.jit", example, extra_config={"n_threads": 1})
    if not hasattr(converted, "predict_proba"):
        # So it is for values, and for a binary LightGBM Booster, of which it returns the probability.
        return converted.predict
    if info.shape.task == "binary":
        return lambda X: converted.predict_proba(X)[:, 1]
    return converted.predict_proba


def _modules(**by_library: str) -> Callable[[Info], str | None]:
    """A refusal where the package for a model's library is not installed."""

    def refuses(info: Info) -> str | None:
        needed = by_library.get(info.shape.library)
        if needed is None or importlib.util.find_spec(needed) is not None:
            return None
        return f"package {needed} is not installed"

    return refuses


def _link_form(info: Info) -> str:
    return LINK


LIBRARY_ITSELF = Contestant(
    "library",
    LIBRARY,
    _library,
    read=library_model,
    leaves=_library_leaves,
    load_link=_library_link,
    load_predict=_library_predict,
)

ALL = (
    LIBRARY_ITSELF,
    Contestant(
        "onnxruntime",
        PEER,
        _onnx_load,
        requires=("onnxruntime", "onnxmltools"),
        runs_with=("onnxruntime",),
        refuses=_modules(sklearn="skl2onnx"),
        form=_link_form,
        read=library_model,
        build=_onnx_build,
    ),
    Contestant(
        "onedal",
        PEER,
        _onedal_load,
        requires=("daal4py",),
        refuses=lambda info: _onedal_refuses(info) or _modules(sklearn="treelite")(info),
        form=_link_form,
        read=library_model,
    ),
    Contestant("treelite", PEER, _gtil_load, requires=("treelite",), read=_model_or_file),
    Contestant(
        "tl2cgen",
        PEER,
        _tl2cgen_load,
        requires=("tl2cgen", "treelite"),
        runs_with=("tl2cgen",),
        read=_model_or_file,
        build=_tl2cgen_build,
    ),
    Contestant(
        "lleaves",
        PEER,
        _lleaves_load,
        requires=("lleaves",),
        runs_with=("lleaves",),
        refuses=_lightgbm_only,
        build=_lleaves_build,
    ),
    Contestant(
        "hummingbird",
        PEER,
        _hummingbird_load,
        requires=("torch", "hummingbird.ml"),
        refuses=_hummingbird_refuses,
        form=_link_form,
        read=_estimator,
        # Hummingbird takes any package of the name tvm for a TVM of years ago, and fails to import.
        hides=("tvm",),
    ),
)
