from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Control(_message.Message):
    __slots__ = ("join", "welcome", "refuse", "endpoints", "goodbye", "kem_offer", "kem_answer")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    KEM_OFFER_FIELD_NUMBER: _ClassVar[int]
    KEM_ANSWER_FIELD_NUMBER: _ClassVar[int]
    join: Join
    welcome: Welcome
    refuse: Refuse
    endpoints: Endpoints
    goodbye: Goodbye
    kem_offer: KemOffer
    kem_answer: KemAnswer
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ..., endpoints: _Optional[_Union[Endpoints, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., kem_offer: _Optional[_Union[KemOffer, _Mapping]] = ..., kem_answer: _Optional[_Union[KemAnswer, _Mapping]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("record", "devices")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    devices: bytes
    def __init__(self, record: _Optional[bytes] = ..., devices: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("record", "devices")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    devices: bytes
    def __init__(self, record: _Optional[bytes] = ..., devices: _Optional[bytes] = ...) -> None: ...

class Refuse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Endpoints(_message.Message):
    __slots__ = ("endpoints",)
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Goodbye.Reason]
        STOPPING: _ClassVar[Goodbye.Reason]
        UNFRIENDED: _ClassVar[Goodbye.Reason]
    UNSPECIFIED: Goodbye.Reason
    STOPPING: Goodbye.Reason
    UNFRIENDED: Goodbye.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: Goodbye.Reason
    def __init__(self, reason: _Optional[_Union[Goodbye.Reason, str]] = ...) -> None: ...

class KemOffer(_message.Message):
    __slots__ = ("epoch", "key")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    key: bytes
    def __init__(self, epoch: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class KemAnswer(_message.Message):
    __slots__ = ("epoch", "ciphertext")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    ciphertext: bytes
    def __init__(self, epoch: _Optional[int] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...
