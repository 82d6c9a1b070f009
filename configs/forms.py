"""Text of the configuration that has one form: refused in words, with the form in the schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class Form:
    """Text of one form, refused in words rather than with the pattern; the words stand in the schema too."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(core), "pattern": f"^{self.pattern}$", "$comment": self.words}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise PydanticCustomError("text_form", "{words}", {"words": self.words})
        return text


Words = Annotated[str, Form("[^\t\r\n]*", "on one line, without tabs")]
CommandLine = Annotated[
    str,
    Form(
        r"""(?=.*\S)([^'"\\\t\r\n]|'[^'\r\n]*'|"([^"\\\r\n]|\\.)*"|\\.)+""",
        "a command on one line, its quotes closed, such as apptainer exec /images/fsl.sif",
    ),
]
