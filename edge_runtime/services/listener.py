"""A DICOM Storage SCP: takes MR images from peers it knows, and counts a file as received only
once it lies in the spool.

pynetdicom speaks the protocol. It bounds neither a PDU (a length field of four bytes), nor a
dataset, nor how many connections wait, nor for how long a byte may be waited for; that is done
here, while bytes come, and so that what is refused costs neither memory nor disk.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from time import monotonic
from typing import Any

from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import create_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import (
    EnhancedMRImageStorage,
    MRImageStorage,
    Verification,
)
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from edge_runtime.errors import BtcError, one_line, printable
from edge_runtime.imaging.dicom_frames import LOSSLESS_JPEG, PACKAGES
from edge_runtime.services.spool import OTHER_CLASS, SUCCESS, Incoming, Refused, Spool

SOP_CLASSES = (MRImageStorage, EnhancedMRImageStorage)
MAX_PDU = 1 << 16  # bytes of data in a PDU, as peers are asked to keep to
MOST_PDU = 1 << 20  # bytes that are read of any PDU: some peers keep to nothing
MOST_COMMAND = 1 << 16  # bytes of a command, which is a few hundred
MOST_WAITING = 8  # requests of a peer that does not wait for answers
MOST_OPENING = 8  # connections beyond the associations, which a moment later are refused or gone
TOO_MUCH = 2  # times the largest dataset: a peer that sends so much is cut off

# Whatever pynetdicom tells quotes requests and datasets.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Peers:
    """Who may come in.

    Attributes:
        titles: AE titles that may call; empty for any.
        networks: where they may call from; empty for anywhere where there are titles, and for this
            machine alone where there are none.
    """

    titles: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    def may_connect(self, address: str) -> bool:
        """Whether a connection from an address is looked at."""
        peer = ip_address(address.partition("%")[0])
        peer = getattr(peer, "ipv4_mapped", None) or peer
        if self.networks:
            return any(peer in network for network in self.networks)
        return bool(self.titles) or peer.is_loopback


@dataclass(frozen=True)
class Bounds:
    """What one peer may take of this machine.

    Attributes:
        associations: at once, of all peers.
        patience: seconds for an association to be asked for, for a whole PDU to come, and between
            two of them.
    """

    associations: int = 8
    patience: float = 60.0


def transfer_syntaxes() -> list[UID]:
    """Those that files can be read in on this machine, the plain ones first."""
    plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
    return plain + [syntax for syntax in PACKAGES if _can_be_read(syntax)]


def _can_be_read(syntax: UID) -> bool:
    try:
        plugins = set(get_decoder(syntax).available_plugins)
    except NotImplementedError:
        return False
    # A damaged JPEG or JPEG 2000 ends the process in gdcm, see `dicom_frames`.
    unsafe = {"gdcm"} if "JPEG-LS" not in syntax.name and syntax not in LOSSLESS_JPEG else set()
    return bool(plugins - unsafe)


class Listener:
    """The SCP.

    Args:
        spool: takes the files.
        aet: its AE title, by which it must be called.
        tls: to speak TLS only.
        on_file: called with the path of each new file, before the peer has its answer.
        tell: called with a line on each association; it names AE titles, addresses and the UIDs
            of studies, nothing of a patient.

    Raises:
        BtcError: the port cannot be had.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        host: str,
        port: int,
        aet: str,
        peers: Peers,
        bounds: Bounds,
        tls: ssl.SSLContext | None,
        on_file: Callable[[Path], None],
        tell: Callable[[str], None],
    ) -> None:
        self.spool, self.peers, self.bounds, self.tls = spool, peers, bounds, tls
        self._on_file, self.tell = on_file, tell
        entity = AE(aet)
        entity.require_called_aet = True
        entity.require_calling_aet = list(peers.titles)
        entity.maximum_associations = bounds.associations
        entity.maximum_pdu_size = MAX_PDU
        for name in ("acse_timeout", "dimse_timeout", "network_timeout"):
            setattr(entity, name, bounds.patience)
        entity.add_supported_context(Verification)
        for sop_class in SOP_CLASSES:
            entity.add_supported_context(sop_class, transfer_syntaxes())
        self._entity = entity
        try:
            self._server: _Server = entity.make_server(
                (host, port),
                evt_handlers=[
                    (evt.EVT_C_STORE, self._store),
                    (evt.EVT_REJECTED, self._rejected),
                    (evt.EVT_CONN_CLOSE, self._closed),
                ],
                server_class=_Server,
                request_handler=_Connection,
                listener=self,
            )
        except (OSError, UnicodeError) as error:  # the latter of a host that is no name
            reason = getattr(error, "strerror", None) or one_line(error)
            raise BtcError(f"cannot listen at {host} port {port}: {reason}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port that the system chose where 0 was asked for."""
        host, port, *_ = self._server.server_address
        return str(host), int(port)

    def start(self) -> None:
        """Listen from now on, in a thread."""
        self._entity._servers.append(self._server)  # as `AE.start_server` does
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer; associations that are open are aborted, half-sent files are gone."""
        self._server.shutdown()
        for association in self._server.active_associations:
            association.abort()
        self._thread.join()

    def _store(self, event: Any) -> Any:
        """A C-STORE request whose dataset has come."""
        receiving: _Receiving = event.assoc.dimse
        incoming = receiving.taken(event.request.DataSet.getvalue().decode())
        try:
            study = self._keep(event, incoming)
        except Refused as refused:
            receiving.count(str(refused))
            return _answer(refused.status, str(refused))
        except OSError as error:
            receiving.count(f"out of resources: {error.strerror}")
            return _answer(0xA700, "out of resources")
        finally:
            incoming.drop()
        receiving.count(study, kept=True)
        return SUCCESS

    def _keep(self, event: Any, incoming: Incoming) -> str:
        """Keep a file; the UID of its study."""
        if incoming.refused is not None:
            raise incoming.refused
        uids = self.spool.look(incoming.path)
        asked = event.request.AffectedSOPClassUID, event.request.AffectedSOPInstanceUID
        if (uids.sop_class, uids.instance) != asked or uids.sop_class not in SOP_CLASSES:
            raise Refused(OTHER_CLASS, "the dataset is of another class or instance than announced")
        path = self.spool.keep(incoming.path, uids)
        if path is not None:
            self._on_file(path)
        return uids.study

    def _rejected(self, event: Any) -> None:
        asked = event.assoc.requestor.primitive
        self.tell(
            f"refused an association: {_peer(event.assoc)} called "
            f"{printable(asked.called_ae_title)!r}; see --aet, --allow and --max-associations"
        )

    def _closed(self, event: Any) -> None:
        """A connection is over, whichever way; what had half come is gone."""
        receiving: _Receiving = event.assoc.dimse
        for line in receiving.close():
            self.tell(f"{_peer(event.assoc)}: {line}")


def _peer(association: Any) -> str:
    """Who speaks: the AE title as given, and the address."""
    title = association.requestor.ae_title or "nobody"
    return f"{printable(str(title))} at {association.requestor.address_info.address}"


def _answer(status: int, comment: str) -> Any:
    from pydicom import Dataset

    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]
    return answer


class _Receiving(DIMSEServiceProvider):  # type: ignore[misc]  # has no types
    """Writes datasets to the spool as they come. pynetdicom, which would gather each in memory or
    in a folder of its own, gets the name of the file in place of the dataset."""

    def __init__(self, association: Any, spool: Spool) -> None:
        super().__init__(association)
        self._spool = spool
        self._coming: Incoming | None = None
        self._whole: dict[str, Incoming] = {}  # by names: have come, and wait for their handler
        self._command = 0  # bytes of it so far
        self._over = False
        self._guard = threading.Lock()  # this runs in one thread, handlers in another
        self._kept: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def receive_primitive(self, primitive: Any) -> None:
        """Take the fragments of a PDU (PS3.8, annex E)."""
        for context, fragment in primitive.presentation_data_value_list:
            if self._over:
                return
            try:
                bearable = self._take(context, bytes(fragment))
            except Exception:  # a command that is none: pydicom and pynetdicom raise many kinds
                bearable = False
            if not bearable:
                self._cut_off()
                return

    def _take(self, context: int, fragment: bytes) -> bool:
        """Take a fragment; False where the peer asks too much."""
        control, is_last = fragment[:1], bool(fragment[0] & 2)  # an IndexError where there is none
        if fragment[0] & 1:
            self._command += len(fragment)
            if self._command > MOST_COMMAND or self.msg_queue.qsize() > MOST_WAITING:
                return False
        else:
            coming = self._coming or self._begin(context)
            self._coming = coming
            if coming is None:
                return False
            coming.write(fragment[1:])
            if coming.size > TOO_MUCH * self._spool.max_bytes:
                return False
            fragment = control
            if is_last:
                coming.finish()
                with self._guard:
                    self._whole[coming.path.name] = coming
                self._coming, self._command = None, 0
                fragment += coming.path.name.encode()
        part = P_DATA()
        part.presentation_data_value_list = [[context, fragment]]
        super().receive_primitive(part)
        if self.message is None:
            self._command = 0
        return True

    def _begin(self, context: int) -> Incoming | None:
        """A file for the dataset that a command has announced; None without a known context."""
        contexts = {each.context_id: each for each in self.assoc.accepted_contexts}
        message: DIMSEMessage | None = self.message
        if context not in contexts or message is None:
            return None
        command = message.command_set
        meta = create_file_meta(
            sop_class_uid=UID(command.get("AffectedSOPClassUID") or ""),
            sop_instance_uid=UID(command.get("AffectedSOPInstanceUID") or ""),
            transfer_syntax=contexts[context].transfer_syntax[0],
        )
        header = BytesIO()
        header.write(bytes(128) + b"DICM")
        write_file_meta_info(header, meta, enforce_standard=False)
        return self._spool.begin(header.getvalue())

    def _cut_off(self) -> None:
        self._over = True
        if self._coming is not None:
            self._coming.drop()
        self.count("the peer sent what it may not, and was cut off")
        self.dul.event_queue.put("Evt19")  # an invalid PDU: A-ABORT (PS3.8, 9.2)

    def taken(self, name: str) -> Incoming:
        """The file of a request whose dataset has come."""
        with self._guard:
            return self._whole.pop(name)

    def count(self, what: str, kept: bool = False) -> None:
        """Count a file for what is said when the connection is over.

        Args:
            what: the UID of its study where it was kept, else why it was not.
        """
        with self._guard:
            (self._kept if kept else self._refused)[what] += 1

    def close(self) -> list[str]:
        """Nothing more comes: what is not kept is deleted, and lines tell what was."""
        with self._guard:
            left = [*self._whole.values(), *([self._coming] if self._coming else [])]
            self._whole.clear()
            self._coming, self._over = None, True
            kept, refused = self._kept, self._refused
            self._kept, self._refused = Counter(), Counter()
        for incoming in left:
            incoming.drop()
        lines = [f"{count} files of study {uid}" for uid, count in kept.items()]
        lines += [f"refused {count} files: {reason}" for reason, count in refused.items()]
        return lines + ([f"{len(left)} files had not come whole"] if left else [])


class _PeerSocket(AssociationSocket):  # type: ignore[misc]  # has no types
    """Reads no more than MOST_PDU bytes at once, and waits for them no longer than it may."""

    patience: float

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, or fewer where the peer is gone.

        Raises:
            OSError: too many, or too slow.
        """
        if nr_bytes > MOST_PDU:
            raise OSError("a PDU of too many bytes")
        end, data = monotonic() + self.patience, bytearray()
        while len(data) < nr_bytes:
            left = end - monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            part = self.socket.recv(min(nr_bytes - len(data), MAX_PDU))
            if not part:
                break
            data += part
        return data


class _Connection(RequestHandler):  # type: ignore[misc]  # has no types
    """What becomes of a connection."""

    request: socket.socket

    def handle(self) -> None:
        """Shake hands where TLS is spoken, then let pynetdicom go on in a thread."""
        listener: Listener = self.server.listener
        self.request.settimeout(listener.bounds.patience)
        if listener.tls is not None:
            try:
                self.request = listener.tls.wrap_socket(self.request, server_side=True)
            except OSError:  # ssl.SSLError is one
                listener.tell(
                    f"{self.client_address[0]}: no TLS, or a certificate that is not known"
                )
                self.request.close()
                return
        super().handle()

    def _create_association(self) -> Any:
        association = super()._create_association()
        listener: Listener = self.server.listener
        association.dimse = _Receiving(association, listener.spool)
        # Its constructor would announce the connection a second time.
        association.dul.socket.__class__ = _PeerSocket
        association.dul.socket.patience = listener.bounds.patience
        return association


class _Server(ThreadedAssociationServer):  # type: ignore[misc]  # has no types
    """Looks at a connection before anything is read of it."""

    daemon_threads = True

    def __init__(self, *args: Any, listener: Listener, **options: Any) -> None:
        self.listener = listener
        self._opening = 0
        self._count = threading.Lock()
        super().__init__(*args, **options)

    def verify_request(self, request: Any, client_address: Sequence[Any]) -> bool:
        """Whether a connection is taken: from where it may come from, and not too many."""
        listener, address = self.listener, str(client_address[0])
        if not listener.peers.may_connect(address):
            listener.tell(f"refused a connection from {address}; see --allow and --allow-address")
            return False
        with self._count:
            most = listener.bounds.associations + MOST_OPENING
            if self._opening + len(self.active_associations) >= most:
                return False
            self._opening += 1
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread begin with a connection; its place is free again where there is none."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # "can't start new thread"
            self._opened()
            raise

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:
        """Begin with a connection; its association then runs in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._opened()

    def _opened(self) -> None:
        """Give back a connection's place among those that have not begun."""
        with self._count:
            self._opening -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of what went wrong with a connection: it would be a traceback."""
