"""Which conversation a request of another client belongs to: by the client's own id of it, or by what it repeats.

History is ours: only the newest user message is taken as new. A past that no conversation holds (it was edited, or it
comes from elsewhere) becomes a conversation of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from staffstream.domain import Conversation, Message, MessageType, MultitaskStrategy, Scope, now_text
from staffstream.memory.learning import Learning
from staffstream.pipeline import Located
from staffstream.storage import conversations, fingerprints, learning_marks, messages, runs
from staffstream.storage.database import Connection
from staffstream.storage.fingerprints import START, extend_path, fold_text
from staffstream.storage.messages import ImportedMessage

_MAX_TURNS = 2500  # of a past that is looked through or copied
_LAST_TURN = 1 << 40  # after all turns
_MAX_ANCHORS = 3  # exchanges at the end of a cut history that are looked for


@dataclass(frozen=True, slots=True)
class Said:
    """A message as a client repeats it."""

    role: MessageType
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """What a client sends: the past that it repeats, and its new message. Some say whether that is asked `again`, or
    that it `edits` an earlier one.
    """

    past: Sequence[Said]
    content: str
    again: bool | None = None
    edits: bool = False


Locate = Callable[[Connection, Scope], Located]


def locate_by_history(history: History, learning: Learning) -> Locate:
    """Find the conversation whose turns the history holds."""
    return lambda tx, scope: _Search(tx, scope, history, learning).locate()


def locate_by_name(
    name: str, history: History, learning: Learning, *, strategy: MultitaskStrategy = "enqueue"
) -> Locate:
    """Find the conversation that a client calls so, or make it; within it, a question that is asked again or edited."""

    def locate(tx: Connection, scope: Scope) -> Located:
        search = _Search(tx, scope, history, learning)
        found = conversations.find_named_conversation(tx, scope, name)
        if found is None:
            found = conversations.create_conversation(tx, scope, external_id=name)
            search.fill(found)
            return Located(found, path=search.path, strategy=strategy)
        located = search.locate_within(found)
        if located.conversation.id != found.id and found.external_id:
            conversations.move_external_id(tx, found, located.conversation)
        return Located(located.conversation, located.regenerates, located.path, strategy)

    return locate


class _Search:
    """One look for the place of a history, in the transaction that accepts its new message."""

    def __init__(self, tx: Connection, scope: Scope, history: History, learning: Learning) -> None:
        self._tx = tx
        self._scope = scope
        self._history = history
        self._past = history.past
        self._content = history.content
        self._learning = learning
        self._paths = [START]  # before each message of the past, and after the last
        for said in history.past:
            self._paths.append(extend_path(self._paths[-1], said.role, said.text))
        self.path = self._paths[-1]

    # ── by what is repeated ──────────────────────────────────────────────────────────────────────────────────────────

    def locate(self) -> Located:
        """Where the history goes on."""
        if not self._past:
            return self._begin()
        if points := self._load(fingerprints.find_by_path(self._tx, self._scope, self.path)):
            return self._continue(points)
        if located := self._continue_stopped():
            return located
        if points := self._find_tail():
            return self._continue(points)
        return self._start_own()

    def _begin(self) -> Located:
        """A lone first message begins a conversation, unless it is one that got no answer and is sent again."""
        path = extend_path(START, "user", self._content)
        for message in self._load(fingerprints.find_by_path(self._tx, self._scope, path)[:1]):
            if message.content.strip() == self._content.strip() and self._is_unanswered(message):
                return Located(self._get_conversation(message), message)
        return Located(conversations.create_conversation(self._tx, self._scope), path=self.path)

    def _continue(self, points: Sequence[Message]) -> Located:
        """Go on after one of these messages: where it is the last, or where the same question follows, which is then
        asked again. Else what follows it was edited.
        """
        following = [(point, messages.find_next_question(self._tx, self._scope, point)) for point in points]
        for point, question in following:
            if question and question.content.strip() == self._content.strip() and not self._is_being_made(question):
                return Located(self._get_conversation(point), question)
        for point, question in following:
            if question is None:
                return Located(self._get_conversation(point), path=self.path)
        return self._start_own()

    def _continue_stopped(self) -> Located | None:
        """Go on after a reply that the client saw the beginning of: it was stopped."""
        last = self._past[-1]
        if last.role != "assistant":
            return None
        points = []
        for question in self._load(fingerprints.find_by_path(self._tx, self._scope, self._paths[-2])):
            replies = [
                messages.get_message(self._tx, self._scope, reply_id)
                for reply_id in messages.list_replies(self._tx, self._scope, question.id)
            ]
            points += [reply for reply in replies if _begins_alike(reply, last.text)]
            if not replies and self._is_being_made(question):  # it is just being stopped
                return Located(self._get_conversation(question), path=self.path, strategy="interrupt")
        return self._continue(points) if points else None

    def _find_tail(self) -> list[Message]:
        """The messages up to which a conversation ends as this history does, whose beginning the client has cut off."""
        anchors = [
            index
            for index in range(len(self._past) - 1, 0, -1)
            if (self._past[index - 1].role, self._past[index].role) == ("user", "assistant")
        ]
        for index in anchors[:_MAX_ANCHORS]:
            exchange = fingerprints.hash_exchange(self._past[index - 1].text, self._past[index].text)
            replies = self._load(fingerprints.find_by_exchange(self._tx, self._scope, exchange))
            if found := [end for reply in replies if (end := self._match_around(reply, index))]:
                return found
        return []

    def _match_around(self, reply: Message, index: int) -> Message | None:
        """The message that is the history's last, if its conversation holds all of the history around a reply, which
        is the history's message `index`.
        """
        before = self._load_before(reply)[-index:]
        if len(before) < index or not all(map(_is_same, before, self._past)):
            return None
        rest = self._past[index + 1 :]
        after = self._load_after(reply)[: len(rest)]
        if len(after) < len(rest) or not all(map(_is_same, after, rest)):
            return None
        return after[-1] if after else reply

    def _load_before(self, message: Message) -> list[Message]:
        """What was said before a reply in its conversation, its question included."""
        turns = self._load_turns(message.conversation_id, before_turn=message.turn + 1)
        return [each for each in messages.flatten_turns(turns) if each.turn < message.turn or each.id < message.id]

    def _load_after(self, message: Message) -> list[Message]:
        turns = messages.load_turns(
            self._tx, self._scope, message.conversation_id, after_turn=message.turn, before_turn=_LAST_TURN, limit=4
        )
        return messages.flatten_turns(turns)

    def _load_turns(self, conversation_id: str, *, before_turn: int) -> list[list[Message]]:
        return messages.load_turns(
            self._tx, self._scope, conversation_id, after_turn=0, before_turn=before_turn, limit=_MAX_TURNS
        )

    # ── within a conversation that the client names ──────────────────────────────────────────────────────────────────

    def locate_within(self, conversation: Conversation) -> Located:
        """Where the history goes on in this conversation: at its end, unless the client shows less of it than there
        is, because a question is asked again or was edited.
        """
        turns = self._load_turns(conversation.id, before_turn=_LAST_TURN)
        asked = [turn[0] for turn in turns if turn[0].message_type == "user"]
        place = self._find_place(asked)
        if place == len(asked):
            return Located(conversation)
        question = asked[place]
        if question.content.strip() == self._content.strip() and self._history.again is not False:
            return Located(conversation, question)
        kept = [turn for turn in turns if turn[0].turn < question.turn]
        own = conversations.create_conversation(self._tx, self._scope)
        self._save_past(own, [_copy(message) for message in messages.flatten_turns(kept)], known=True)
        return Located(own)

    def _find_place(self, asked: Sequence[Message]) -> int:
        """Before which of the conversation's questions the new message belongs; after all of them if the client shows
        nothing that is known here.
        """
        own = [fold_text(message.content) for message in asked]
        shown = [fold_text(said.text) for said in self._past if said.role == "user"]
        if not shown:  # the first message, or a client that sends no history
            is_first = self._history.again if self._history.again is not None else own == [fold_text(self._content)]
            return 0 if is_first or self._history.edits else len(own)
        if own[: len(shown)] == shown:
            return len(shown)
        for end in range(len(own), 0, -1):  # the client has cut its history off
            if own[max(0, end - len(shown)) : end] == shown[-end:]:
                return end
        return len(own)

    # ── a past of its own ────────────────────────────────────────────────────────────────────────────────────────────

    def _start_own(self) -> Located:
        """A conversation of its own with the past that the client shows."""
        conversation = conversations.create_conversation(self._tx, self._scope)
        self.fill(conversation)
        return Located(conversation, path=self.path)

    def fill(self, conversation: Conversation) -> None:
        """Save the past that the client shows."""
        now = now_text()
        self._save_past(conversation, [ImportedMessage(said.role, said.text, now) for said in self._past], known=False)

    def _save_past(self, conversation: Conversation, past: Sequence[ImportedMessage], *, known: bool) -> None:
        """What is known from elsewhere is neither made searchable twice nor learned from twice."""
        if not past:
            return
        is_known = [known or self._is_known(past, index) for index in range(len(past))]
        saved = messages.import_messages(self._tx, self._scope, conversation, past)
        if fresh := [message for message, known_one in zip(saved, is_known, strict=True) if not known_one]:
            self._learning.index_import(self._tx, self._scope, conversation, fresh)
        learning_marks.set_learned(self._tx, self._scope, conversation.id, saved[-1])

    def _is_known(self, past: Sequence[ImportedMessage], index: int) -> bool:
        """Whether a message and the one that it goes with were said in some conversation of this scope."""
        pair = past[index : index + 2] if past[index].message_type == "user" else past[max(0, index - 1) : index + 1]
        if [message.message_type for message in pair] != ["user", "assistant"]:
            return False
        exchange = fingerprints.hash_exchange(pair[0].content, pair[1].content)
        return bool(fingerprints.find_by_exchange(self._tx, self._scope, exchange))

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self, message_ids: Sequence[str]) -> list[Message]:
        return [messages.get_message(self._tx, self._scope, message_id) for message_id in message_ids]

    def _get_conversation(self, message: Message) -> Conversation:
        return conversations.get_conversation(self._tx, self._scope, message.conversation_id)

    def _is_being_made(self, question: Message) -> bool:
        return runs.has_active_run(self._tx, self._scope, question.id)

    def _is_unanswered(self, question: Message) -> bool:
        replies = messages.list_replies(self._tx, self._scope, question.id)
        return not replies and not self._is_being_made(question)


def _begins_alike(reply: Message, shown: str) -> bool:
    """Whether the client's text is the beginning of the reply, or the other way round for one that broke off."""
    own, other = fold_text(reply.content), fold_text(shown)
    return own.startswith(other) or (reply.status != "complete" and bool(own) and other.startswith(own))


def _is_same(message: Message, said: Said) -> bool:
    if message.message_type != said.role:
        return False
    if fold_text(message.content) == fold_text(said.text):
        return True
    return said.role == "assistant" and message.status != "complete" and _begins_alike(message, said.text)


def _copy(message: Message) -> ImportedMessage:
    return ImportedMessage(message.message_type, message.content, message.created_at)
