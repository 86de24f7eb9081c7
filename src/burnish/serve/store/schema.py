"""The SQL schema: files, jobs, their events, and the other objects that clients create.

SQLite (WAL) in the workspace, or PostgreSQL by its URL; one schema for both. Bytes and weights lie
in folders of the workspace, and a row is written after its bytes are on disk.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    or_,
    text,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    with_loader_criteria,
)

from burnish.core.errors import BurnishError
from burnish.serve.auth.tenant import DEFAULT_ORGANIZATION, ORGANIZATION, current_organization

#: Increased with every new table or column. An older store gets what it lacks; a newer one is not
#: opened; an existing column never changes.
SCHEMA_VERSION = 3
#: States of a job that has not ended.
UNFINISHED = ("validating_files", "queued", "running", "paused")
#: An arbitrary id for the lock that keeps two servers from creating the tables at once.
_CREATE_LOCK_ID = 7_203_991
#: SQLite increments only an INTEGER key by itself.
_AutoIncrement = BigInteger().with_variant(Integer, "sqlite")


class StoreUnavailable(BurnishError):
    """The database cannot be reached, or was created by another version of burnish."""

    status = 503


class TableBase(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {  # noqa: RUF012 SQLAlchemy's way
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


class SchemaVersion(TableBase):
    """One row: the number of the schema."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True)


class OrganizationMixin:
    """Rows of an organization, which no other organization sees."""

    organization: Mapped[str] = mapped_column(
        String(64), default=current_organization, server_default=DEFAULT_ORGANIZATION, index=True
    )


class File(OrganizationMixin, TableBase):
    """An uploaded or a result file. `seq` is the order of creation; times are Unix seconds."""

    __tablename__ = "files"
    seq: Mapped[int] = mapped_column(_AutoIncrement, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    filename: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=lambda: int(time.time()))


class Job(OrganizationMixin, TableBase):
    """A fine-tuning job: its request, its state, and its worker's lease."""

    __tablename__ = "jobs"
    seq: Mapped[int] = mapped_column(_AutoIncrement, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[int] = mapped_column(BigInteger, default=lambda: int(time.time()))
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    estimated_finish: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(32), index=True)
    model: Mapped[str] = mapped_column(Text)
    base: Mapped[str] = mapped_column(Text)
    suffix: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    training_file: Mapped[str] = mapped_column(String(64), index=True)
    validation_file: Mapped[str | None] = mapped_column(String(64), index=True)
    method: Mapped[str] = mapped_column(String(32))
    asked: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any] | None]
    run: Mapped[str] = mapped_column(Text)
    recipe: Mapped[dict[str, Any] | None]
    fine_tuned_model: Mapped[str | None] = mapped_column(String(255), unique=True)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    result_files: Mapped[list[str]] = mapped_column(default=list)
    error: Mapped[dict[str, Any] | None]
    worker: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float | None]
    lives: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    died_at_step: Mapped[int] = mapped_column(default=-1)


class JobEventRow(TableBase):
    """An event of a job. `key` identifies it, so that none is recorded twice."""

    __tablename__ = "job_events"
    __table_args__ = (UniqueConstraint("job", "key"),)
    seq: Mapped[int] = mapped_column(_AutoIncrement, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    key: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]


class JobCheckpoint(TableBase):
    """A model saved during a job; `name` is the model's name."""

    __tablename__ = "job_checkpoints"
    __table_args__ = (UniqueConstraint("job", "step"),)
    seq: Mapped[int] = mapped_column(_AutoIncrement, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    step: Mapped[int]
    name: Mapped[str] = mapped_column(String(255), unique=True)
    folder: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any]]


class StoredObject(OrganizationMixin, TableBase):
    """Any other object of a client: an upload, a batch, a vector store, a response, a deployment.

    `kind` is the type, `parent` the id of the object it belongs to, `body` the content.
    """

    __tablename__ = "records"
    seq: Mapped[int] = mapped_column(_AutoIncrement, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    parent: Mapped[str | None] = mapped_column(String(64), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger, default=lambda: int(time.time()))
    status: Mapped[str] = mapped_column(String(32))
    body: Mapped[dict[str, Any]]
    worker: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float | None]


class DeletedModel(TableBase):
    """A model that was deleted; the run that trained it stays."""

    __tablename__ = "deleted_models"
    name: Mapped[str] = mapped_column(String(255), primary_key=True)


def not_leased(
    table: type[Job] | type[StoredObject], now: float, lease: float
) -> ColumnElement[bool]:
    """Return the condition that no worker holds a row, given leases of `lease` seconds.

    A much longer lease was given before the clock was set back: a live worker has renewed it since,
    and a dead one must not hold the row until that time comes again.
    """
    end = table.lease_until
    return or_(table.worker.is_(None), end < now, end > now + 4 * lease)


class Database:
    """Sessions of one database. After `writing`, the changes are on disk."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = create_engine(url, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError) as error:
            raise StoreUnavailable(
                "The URL of the store is invalid.",
                "For example: postgresql+psycopg://user:password@host/burnish",
            ) from error
        except ModuleNotFoundError as error:
            raise StoreUnavailable(
                f"The store needs the package `{error.name}`.", "pip install 'burnish[postgresql]'"
            ) from error
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        self._writer = self._engine.execution_options(burnish_writes=True)
        try:
            with self._writer.begin() as connection:
                _create_tables(connection)
        except SQLAlchemyError as error:
            self._engine.dispose()
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            remedy = "Check --store, and that the database is running."
            if self._engine.dialect.name == "sqlite":
                remedy = "Its folder must exist and be writable, with space on the disk."
            raise StoreUnavailable(f"The store cannot be opened: {cause}.", remedy) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that only reads. Its rows stay usable afterwards."""
        with _Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a session that is committed at the end, or rolled back if the block raises."""
        with _Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


class _Session(Session):
    """A session that sees only the rows of the current organization."""


@event.listens_for(_Session, "do_orm_execute")
def _filter_by_organization(state: ORMExecuteState) -> None:
    organization = ORGANIZATION.get()
    if organization is not None:
        own_rows = with_loader_criteria(
            OrganizationMixin,
            lambda table: table.organization == organization,
            include_aliases=True,
        )
        state.statement = state.statement.options(own_rows)  # type: ignore[attr-defined]


def sqlite_url(workspace: Path) -> str:
    """Return the URL of a workspace's own store, and create the workspace's folder."""
    workspace.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{workspace / 'burnish.db'}"


def _create_tables(connection: Connection) -> None:
    """Create missing tables. Raises StoreUnavailable for tables of a later version."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CREATE_LOCK_ID})
    if not inspect(connection).has_table(SchemaVersion.__tablename__):
        TableBase.metadata.create_all(connection)
        connection.execute(SchemaVersion.__table__.insert(), {"version": SCHEMA_VERSION})  # type: ignore[attr-defined]
    version = connection.execute(SchemaVersion.__table__.select()).scalar_one()
    if version < SCHEMA_VERSION:
        TableBase.metadata.create_all(connection)
        _add_organization_columns(connection)
        connection.execute(SchemaVersion.__table__.update(), {"version": SCHEMA_VERSION})  # type: ignore[attr-defined]
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"The store has schema {version}; this version of burnish needs {SCHEMA_VERSION}.",
            "Use the version that created it, or name another store.",
        )


def _add_organization_columns(connection: Connection) -> None:
    """Give rows older than organizations to the default one."""
    for table in TableBase.metadata.sorted_tables:
        existing = {column["name"] for column in inspect(connection).get_columns(table.name)}
        if "organization" in table.columns and "organization" not in existing:
            connection.execute(
                text(
                    f"ALTER TABLE {table.name} ADD COLUMN organization VARCHAR(64) "
                    f"DEFAULT '{DEFAULT_ORGANIZATION}' NOT NULL"
                )
            )
            for index in table.indexes:
                if "organization" in index.columns:
                    index.create(connection)


def _switch_to_wal(connection: sqlite3.Connection, tries: int = 600) -> None:
    """Switch to write-ahead logging; SQLite's busy timeout does not cover concurrent switches."""
    for _ in range(tries):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL")


def _prepare_sqlite(engine: Engine) -> None:
    """Set WAL, full fsyncs and a busy timeout; begin writing transactions as such."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions itself
        connection.execute("PRAGMA busy_timeout=30000")
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns into a writer fails if another writer came first.
        writes = connection.get_execution_options().get("burnish_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
