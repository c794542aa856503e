"""Triton's interpreter without half of its time, which goes into what it has done already."""

from typing import Any

from triton.runtime import interpreter


def patch_once_a_launch() -> None:
    """Has the interpreter turn ``triton.language`` to numpy once for each module and launch of a kernel.

    It does so at every call of a device function, of which a tile makes dozens, and goes through all names of
    the language each time. Kernels, tiles and numbers stay what they are.
    """
    launch, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang
    patched: set[int] = set()

    def launch_anew(executor: Any, *arguments: Any, **keywords: Any) -> None:
        patched.clear()  # the last launch has taken back what it did when it began
        launch(executor, *arguments, **keywords)

    def patch_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in patched:
            return interpreter._LangPatchScope()
        patched.add(module)
        return patch(function)

    interpreter.GridExecutor.__call__ = launch_anew
    interpreter._patch_lang = patch_once
