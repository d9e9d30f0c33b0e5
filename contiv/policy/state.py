"""The policies of the cluster as they bear on one node's pods, and the access lists that follow. No I/O.

In: Kubernetes objects, the node's pod attachments, service frontends, each as it comes, changes and goes. Out: after
``settle`` the interfaces whose lists changed; ``lists_of`` an interface; ``origins`` of a verdict. The same facts in
any order give the same lists, and what was reached step by step is what ``replace`` gives.

A policy is *active* while it selects a pod of this node; only active ones have their peers followed (``index.py``). A
change of a peer makes the policies stale that speak of it, these the pods that they select; only those are judged
again, and only lists whose facts changed are written again.

Fails closed: an attached pod whose object is not known, or not of the same UID, is isolated in both directions, and so
are all pods until ``complete`` says that the cluster's state is. Two are open without their object. An attachment
without a pod's name is no Kubernetes pod, so that no policy can ever select it. And a pod that comes while etcd is
``away`` is *presumed* to be one that nothing selects, where its namespace is known and has, as far as is known, no
policy: nobody could say more for as long as etcd is away, and known pods run on by the same knowledge. It stays open
until its object is known or its namespace has a policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.ip import Address
from contiv.model.node import Attachment
from contiv.model.service import Frontend, FrontendKey
from contiv.policy import rules
from contiv.policy.index import PodIndex, PodRecord
from contiv.policy.lists import Writer
from contiv.policy.local import Local, joined, parse_address, same_pod, told_addresses
from contiv.policy.rules import EGRESS, INGRESS, PROTOCOLS, ContainerPorts, Fault, Origin, PodSet, Policy
from contiv.policy.selectors import SelectorIndex
from contiv.policy.tables import Lists, NodeView

PolicyKey = tuple[str, str]


class Active:
    """A policy that selects pods of this node."""

    __slots__ = ("_egress", "_ingress", "_names", "needs", "policy", "sets", "subjects")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.subjects: set[Local] = set()
        self.sets = {direction: policy.pod_sets(direction) for direction in policy.rules}
        self.needs = frozenset[PodSet]().union(*self.sets.values())
        self._names = set(policy.ingress_names)
        self._ingress: dict[ContainerPorts, acl.Allowed] = {}
        self._egress: acl.Allowed | None = None

    def forget(self, changed: PodSet) -> None:
        """The members of a set changed."""
        if changed in self.sets.get(INGRESS, ()):
            self._ingress = {}
        if changed in self.sets.get(EGRESS, ()):
            self._egress = None

    def ingress(self, pod: PodRecord, members: rules.Members) -> acl.Allowed:
        """What it allows into a pod; equal for pods whose named ports are."""
        ports = tuple(port for port in pod.ports if port[1::-1] in self._names) if self._names else ()
        found = self._ingress.get(ports)
        if found is None:
            found = self._ingress[ports] = rules.ingress(self.policy, ports, members)
        return found

    def egress(self, members: rules.Members) -> acl.Allowed:
        """What it allows out of its pods."""
        if self._egress is None:
            self._egress = rules.egress(self.policy, members)
        return self._egress


class PolicyState:
    """All policies, and this node's pods."""

    def __init__(self, node: NodeView) -> None:
        self.index = PodIndex()
        self._base = node
        self._ips: tuple[str, ...] = ()
        """The addresses that the node's object tells."""
        self._complete = False
        self._away = False
        self._policies: dict[PolicyKey, Policy] = {}
        self._subjects: dict[str, SelectorIndex[PolicyKey]] = {}
        self._active: dict[PolicyKey, Active] = {}
        self._users: dict[PodSet, set[PolicyKey]] = {}
        self._locals: dict[str, Local] = {}
        self._named: dict[tuple[str, str], list[Local]] = {}
        self._homes: dict[str, set[Local]] = {}
        self._pod_faults: dict[tuple[str, str], tuple[Fault, ...]] = {}
        self._stale: set[Local] = set()
        """Locals to be judged again."""
        self._heard: set[Local] = set()
        """Locals that changed as destinations."""
        self._spoke: set[Local] = set()
        """Locals that came, went or changed as sources."""
        self._writer = Writer(node)

    # ---------------------------------------------------------------- what there is

    @property
    def complete(self) -> bool:
        """Whether the objects are all that the cluster has; until then every pod is isolated."""
        return self._complete

    @complete.setter
    def complete(self, complete: bool) -> None:
        if complete != self._complete:
            self._complete = complete
            self._stale.update(self._locals.values())

    @property
    def away(self) -> bool:
        """Whether nothing new can be learnt of the cluster."""
        return self._away

    @away.setter
    def away(self, away: bool) -> None:
        if away != self._away:
            self._away = away
            self._stale.update(local for local in self._locals.values() if local.pod is None)

    @property
    def policy_count(self) -> int:
        """How many policies the cluster has."""
        return len(self._policies)

    def clear(self) -> None:
        """Give up the state, so that its memory is free at once."""
        self.index.clear()

    def load(self, objects: Iterable[kube.KubeObject]) -> None:
        """Take in many objects: those first that the others are judged by."""
        later: list[kube.KubeObject] = []
        for each in objects:
            if isinstance(each, kube.Namespace):
                self.put(each)
            else:
                later.append(each)
        for each in later:
            self.put(each)

    def put(self, value: kube.KubeObject) -> None:
        """Take an object in, or what changed of it; kinds that policies do not know are passed over."""
        match value:
            case kube.Pod():
                self._put_pod(value)
            case kube.NetworkPolicy():
                self._put_policy(value)
            case kube.Namespace():
                self.index.put_namespace(value.name, value.labels)
                self._doubt(value.name)
            case kube.Node(name=self._base.name):
                self._put_node(value.ips)
            case _:
                pass

    def remove(self, value: kube.KubeObject) -> None:
        """Forget an object; only its name counts."""
        match value:
            case kube.Pod():
                self._remove_pod(value.namespace, value.name)
            case kube.NetworkPolicy():
                self._remove_policy((value.namespace, value.name))
            case kube.Namespace():
                self.index.put_namespace(value.name, None)
                self._doubt(value.name)
            case kube.Node(name=self._base.name):
                self._put_node(())
            case _:
                pass

    def faults(self) -> list[Fault]:
        """What is wrong with the objects, in order."""
        found = [fault for policy in self._policies.values() for fault in policy.faults]
        found.extend(fault for faults in self._pod_faults.values() for fault in faults)
        return sorted(found)

    # ---------------------------------------------------------------- nodes and pods

    def set_node(self, node: NodeView) -> None:
        """The node is another one: its uplink got an address, or lost it."""
        if node != self._base:
            self._base = node
            self._show_node()

    def _put_node(self, ips: Iterable[str]) -> None:
        self._ips = tuple(ips)
        self._show_node()

    def _show_node(self) -> None:
        told = (parse_address(text) for text in self._ips)
        addresses = dict.fromkeys([*self._base.addresses, *(each for each in told if each is not None)])
        self._writer.set_node(msgspec.structs.replace(self._base, addresses=tuple(addresses)))

    def _put_pod(self, pod: kube.Pod) -> None:
        name = pod.namespace, pod.name
        if pod.host_network:  # neither selected nor a peer
            self._remove_pod(*name)
            return
        told, faults = told_addresses(pod)
        attached = self._named.get(name, ())
        mine = [local for local in attached if same_pod(local.attachment, pod.uid)]
        record = self.index.put_pod(
            pod.namespace,
            pod.name,
            uid=pod.uid,
            labels=pod.labels,
            addresses=() if pod.finished else joined(told, mine),
            ports=tuple(
                (p.name, PROTOCOLS[p.protocol], p.port) for p in pod.ports if p.name and p.protocol in PROTOCOLS
            ),
        )
        record.told, record.finished = told, pod.finished
        self._note_pod_faults(name, faults)
        for local in attached:
            self._identify(local, record)

    def _remove_pod(self, namespace: str, name: str) -> None:
        self.index.remove_pod(namespace, name)
        self._note_pod_faults((namespace, name), ())
        for local in self._named.get((namespace, name), ()):
            self._identify(local, None)

    def _note_pod_faults(self, name: tuple[str, str], faults: tuple[Fault, ...]) -> None:
        if faults:
            self._pod_faults[name] = faults
        else:
            self._pod_faults.pop(name, None)

    # ---------------------------------------------------------------- attachments

    @property
    def attachments(self) -> dict[str, Attachment]:
        """The attachments that are known, by owner."""
        return {owner: local.attachment for owner, local in self._locals.items()}

    def attach(self, owner: str, attachment: Attachment, *, young: bool = False, presumed: bool = False) -> None:
        """A pod has an interface here. ``young``: it gets it in the transaction that is under way. ``presumed``: it
        was that before a resync."""
        self.detach(owner)
        local = self._locals[owner] = Local(attachment)
        local.young, local.presumed = young, presumed
        self._named.setdefault(local.name, []).append(local)
        self._homes.setdefault(attachment.pod_namespace, set()).add(local)
        self._heard.add(local)
        self._spoke.add(local)
        self._identify(local, self.index.pod(*local.name))
        self._readdress(local.name)

    def detach(self, owner: str) -> None:
        """A pod's interface is gone."""
        local = self._locals.pop(owner, None)
        if local is None:
            return
        self._select(local, ())
        self._stale.discard(local)
        self._heard.discard(local)
        self._spoke.add(local)
        siblings = self._named[local.name]
        siblings.remove(local)
        if not siblings:
            del self._named[local.name]
        home = self._homes[local.attachment.pod_namespace]
        home.discard(local)
        if not home:
            del self._homes[local.attachment.pod_namespace]
        self._readdress(local.name)

    def young(self) -> frozenset[str]:
        """Owners of pods that could use services from now on: isolated for egress, and until now new or unknown."""
        for local in self._locals.values():
            local.young = local.young and local.egress is not None
        return frozenset(owner for owner, local in self._locals.items() if local.young and not local.shut)

    def grow(self, owners: Iterable[str]) -> None:
        """All lists stand that judge these pods where services lead them."""
        for owner in owners:
            local = self._locals.get(owner)
            if local is not None and local.young and not local.shut:
                local.young = False
                self._spoke.add(local)

    def _identify(self, local: Local, pod: PodRecord | None) -> None:
        """Tell whose the attachment is, which addresses it sends from, and have it judged."""
        known = pod is not None and same_pod(local.attachment, pod.uid)
        local.pod = pod if known else None
        own = local.attachment.ip
        others = {each.version: each for each in reversed(pod.told)} if known and pod and not pod.finished else {}
        addresses = (own, *(each for version, each in sorted(others.items()) if version != own.version))
        if addresses != local.addresses:
            local.addresses = addresses
            self._heard.add(local)
            self._spoke.add(local)
        self._stale.add(local)

    def _readdress(self, name: tuple[str, str]) -> None:
        """A pod's attachments changed, and its addresses with them."""
        pod = self.index.pod(*name)
        if pod is not None and not pod.finished:
            mine = [local for local in self._named.get(name, ()) if local.pod is pod]
            self.index.set_addresses(pod, joined(pod.told, mine))

    # ---------------------------------------------------------------- policies

    def _put_policy(self, value: kube.NetworkPolicy) -> None:
        policy = rules.read(value)
        known = self._policies.get(policy.key)
        if known == policy:
            return
        if known is not None:
            self._unshelve(known)
        self._subjects.setdefault(policy.namespace, SelectorIndex()).add(policy.key, policy.subject)
        self._policies[policy.key] = policy
        before = self._active.get(policy.key)
        if before is not None:  # first use what the new one needs, then release: most stays in use
            self._activate(policy).subjects = before.subjects
            self._release(before)
            self._stale |= before.subjects
        for local in self._homes.get(policy.namespace, ()):
            if local.pod is not None and policy.subject.matches(local.pod.labels):
                self._stale.add(local)
        self._doubt(policy.namespace)

    def _remove_policy(self, key: PolicyKey) -> None:
        policy = self._policies.pop(key, None)
        if policy is None:
            return
        self._unshelve(policy)
        if key in self._active:
            self._stale |= self._active[key].subjects
        self._doubt(policy.namespace)

    def _doubt(self, namespace: str) -> None:
        """What is presumed of the pods of a namespace may be otherwise now."""
        self._stale.update(local for local in self._homes.get(namespace, ()) if local.pod is None)

    def _unshelve(self, policy: Policy) -> None:
        shelf = self._subjects.get(policy.namespace)
        if shelf is not None:  # else nothing selectable ever stood on it
            shelf.discard(policy.key, policy.subject)
            if not shelf:
                del self._subjects[policy.namespace]

    def _activate(self, policy: Policy) -> Active:
        active = self._active[policy.key] = Active(policy)
        for each in active.needs:
            self.index.use(each)
            self._users.setdefault(each, set()).add(policy.key)
        return active

    def _release(self, active: Active) -> None:
        """Take back what a policy used that has been dropped, or replaced by a newer one of its name."""
        heir = self._active.get(active.policy.key)
        for each in active.needs:
            self.index.release(each)
            if heir is None or each not in heir.needs:
                users = self._users[each]
                users.discard(active.policy.key)
                if not users:
                    del self._users[each]

    def _select(self, local: Local, keys: tuple[PolicyKey, ...]) -> None:
        """Note which policies select a pod; a policy without any pod left is no longer active."""
        for key in keys:
            if key not in local.policies:
                (self._active.get(key) or self._activate(self._policies[key])).subjects.add(local)
        gone = [key for key in local.policies if key not in keys]
        local.policies = keys
        for key in gone:
            active = self._active[key]
            active.subjects.discard(local)
            if not active.subjects:
                del self._active[key]
                self._release(active)

    # ---------------------------------------------------------------- judging

    def set_frontends(self, frontends: Mapping[FrontendKey, Frontend]) -> None:
        """Take the services' frontends as they are now."""
        self._writer.set_frontends(frontends)

    def settle(self) -> set[str]:
        """Bring all lists up to date; the interfaces whose lists changed, came or went."""
        for group in self.index.settle():
            for key in self._users.get(group.pod_set, ()):
                self._active[key].forget(group.pod_set)
                self._stale |= self._active[key].subjects
        unions: dict[tuple[acl.Allowed, ...], acl.Allowed] = {}
        stale, self._stale = self._stale, set()
        for local in stale:
            self._judge(local, unions)
        changed = self._writer.write(self._locals.values(), heard=self._heard, spoke=self._spoke)
        self._heard, self._spoke = set(), set()
        return changed

    def _members(self, pod_set: PodSet) -> Mapping[int, acl.Peers]:
        return self.index.group(pod_set).parts

    def _judge(self, local: Local, unions: dict[tuple[acl.Allowed, ...], acl.Allowed]) -> None:
        """What policies allow a pod now."""
        pod = local.pod
        local.presumed = pod is None and any(local.name) and self._presume(local)
        shut = any(local.name) and not local.presumed and (pod is None or not self._complete)
        if shut != local.shut:
            local.shut = shut
            local.young = not shut
            self._spoke.add(local)
        if pod is None or shut:
            everything = None if not shut else acl.Allowed.NONE
            self._select(local, ())
            self._allow(local, everything, everything)
        else:
            shelf = self._subjects.get(pod.namespace)
            self._select(local, tuple(sorted(shelf.matching(pod.labels))) if shelf is not None else ())
            those = [self._active[key] for key in local.policies]
            into = tuple(each.ingress(pod, self._members) for each in those if INGRESS in each.sets)
            out = tuple(each.egress(self._members) for each in those if EGRESS in each.sets)
            self._allow(local, _union(into, unions), _union(out, unions))

    def _presume(self, local: Local) -> bool:
        """Whether a pod whose object is not known is taken for one that no policy selects."""
        namespace = local.attachment.pod_namespace
        home = self.index.namespaces.get(namespace)
        quiet = home is not None and home.labels is not None and not self._subjects.get(namespace)
        return self._complete and quiet and (local.presumed or self._away)

    def _allow(self, local: Local, ingress: acl.Allowed | None, egress: acl.Allowed | None) -> None:
        if ingress != local.ingress:
            local.ingress = ingress
            self._heard.add(local)
        if egress != local.egress:
            local.egress = egress
            self._spoke.add(local)

    # ---------------------------------------------------------------- answers

    @property
    def lists(self) -> Mapping[str, Lists]:
        """The access lists of all interfaces that policies have a word about, as of the last ``settle``."""
        return self._writer.lists

    def locals(self) -> list[Local]:
        """This node's pods, in order."""
        return sorted(self._locals.values(), key=lambda local: (local.name, local.interface))

    def local(self, namespace: str, name: str) -> Local | None:
        """The newest attachment of a pod of this node."""
        found = self._named.get((namespace, name))
        return found[-1] if found else None

    def origins(self, local: Local, direction: str, *, far: Address, traffic: tuple[int, int]) -> list[Origin]:
        """The policies' entries that allow a pod ``traffic`` (protocol, port of the destination) with ``far``."""
        found: list[Origin] = []
        pod = local.pod
        for key in local.policies if pod is not None else ():
            policy, ports = self._active[key].policy, pod.ports if pod is not None else ()
            found += rules.origins(policy, direction, pod=ports, far=far, traffic=traffic, members=self._members)
        return found


def _union(those: tuple[acl.Allowed, ...], known: dict[tuple[acl.Allowed, ...], acl.Allowed]) -> acl.Allowed | None:
    """What several policies allow together; None without any, or when it is everything."""
    if not those:
        return None
    found = known.get(those)
    if found is None:
        found = known[those] = acl.Allowed.union_of(those)
    return None if found.covers_all else found
