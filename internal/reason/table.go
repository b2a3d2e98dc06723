// The table of all reasons: code, HTTP status, OAuth error, Event, remedy. docs/reasons.md is
// generated from it.

package reason

import "net/http"

// actor is who can fix the cause of a reason.
type actor string

const (
	noAction actor = "no action needed, the cause is temporary"
	program  actor = "the author of the program"
	owner    actor = "the owner of the pod's namespace"
	cluster  actor = "the owner of the cluster's policy"
	operator actor = "the operator of podid"
)

// row is the entry of a reason in the table.
type row struct {
	name   string
	status int    // 0: no response to a pod has the reason
	oauth  string // error code of the response
	event  bool   // the node agent emits an Event on the pod
	// transient: the cause may go away although the actor does nothing.
	transient bool
	// verbatim: clients compare the text of the response literally, so it has no code.
	verbatim bool
	actor    actor
	meaning  string
	remedy   string
}

var table = map[Reason]row{ //nolint:gochecknoglobals // the table
	HeaderMissing: {
		name: "Rejected", status: http.StatusBadRequest, oauth: "invalid_request", verbatim: true, actor: program,
		meaning: "A request to the metadata service lacks the header Metadata: true. SDKs send such requests on " +
			"purpose, to find out whether there is a metadata service.",
		remedy: "Send the header Metadata: true.",
	},
	Forwarded: {
		name: "Rejected", status: http.StatusBadRequest, oauth: "invalid_request", actor: program,
		meaning: "The request has the header X-Forwarded-For, so it came through a proxy.",
		remedy:  "Exclude 169.254.169.254 from the program's proxy settings (NO_PROXY).",
	},
	PathUnknown: {
		name: "Rejected", status: http.StatusNotFound, oauth: "not_found", actor: program,
		meaning: "The path is not one that pods may ask the metadata service for.",
		remedy:  "Use the paths that docs/nmi.md lists.",
	},
	MethodNotAllowed: {
		name: "Rejected", status: http.StatusMethodNotAllowed, oauth: "method_not_allowed", actor: program,
		meaning: "The method is not GET.",
		remedy:  "Use GET.",
	},
	BodyTooLarge: {
		name: "Rejected", status: http.StatusRequestEntityTooLarge, oauth: "invalid_request", actor: program,
		meaning: "A GET has a body that is too long or too slow.",
		remedy:  "Send no body with a GET.",
	},
	BadQuery: {
		name: "BadRequest", status: http.StatusBadRequest, oauth: "invalid_request", actor: program,
		meaning: "The query is malformed, lacks a required parameter, or has one twice.",
		remedy:  "Correct the query as the message says.",
	},
	BadResource: {
		name: "BadRequest", status: http.StatusBadRequest, oauth: "invalid_resource", actor: program,
		meaning: "The parameter resource has characters that no resource has.",
		remedy:  "Correct the resource that the program asks for.",
	},
	PodNotNamed: {
		name: "BadRequest", status: http.StatusBadRequest, oauth: "invalid_request", actor: program,
		meaning: "A process of the node asked for a pod's token without naming the pod.",
		remedy:  "Send the headers podname and podns.",
	},
	HostTCPOff: {
		name: "Rejected", status: http.StatusNotFound, oauth: "not_found", actor: operator,
		meaning: "A process of the node asked for a pod's token over TCP, where they are not served.",
		remedy:  "Use the Unix socket of --host-token-socket, or run NMI with --host-token-tcp.",
	},
	NotLoopback: {
		name: "NotLoopback", status: http.StatusForbidden, oauth: "forbidden", actor: program,
		meaning: "A request for a pod's token reached the endpoint for processes of the node from elsewhere.",
		remedy:  "Ask from a process of the node, over loopback.",
	},
	FromKubelet: {
		name: "Rejected", status: http.StatusForbidden, oauth: "forbidden", actor: program,
		meaning: "The kubelet asked for a token, for a probe or a hook of a pod.",
		remedy:  "Do not point probes or hooks at the node agent; pods ask the metadata service.",
	},
	CallerUnknown: {
		name: "CallerUnknown", status: http.StatusInternalServerError, oauth: "caller_unknown", actor: noAction,
		meaning: "The node agent knows no live pod with the address that the request came from.",
		remedy: "Try again. If it stays so, check that the pod runs on this node and that the node agent can watch " +
			"pods.",
	},
	CallerAmbiguous: {
		name: "CallerAmbiguous", status: http.StatusInternalServerError, oauth: "caller_unknown", actor: noAction,
		meaning: "Two live pods of the node have the address that the request came from.",
		remedy:  "Try again. If it stays so, look for a faulty network plug-in: kubectl get pods -A -o wide.",
	},
	CallerMoved: {
		name: "CallerMoved", status: http.StatusInternalServerError, oauth: "caller_unknown", actor: noAction,
		meaning: "The request came in by another network interface than that of the pod with its address.",
		remedy: "Try again. If it stays so, look for a pod that uses another pod's address, or run NMI with " +
			"--allow-address-on-any-interface where interfaces change while pods run.",
	},
	CallerGone: {
		name: "CallerGone", status: http.StatusInternalServerError, oauth: "server_error", actor: noAction,
		meaning: "The pod ended before its answer could be sent.",
		remedy:  "Nothing.",
	},
	CallerOutside: {
		name: "CallerOutside", status: http.StatusForbidden, oauth: "forbidden", actor: program,
		meaning: "The request came to the listener in a pod's network, from a process that is in no pod: " +
			"one of the node that has entered the pod's network.",
		remedy: "Ask from a container of the pod.",
	},
	CallerNotProven: {
		name: "CallerNotProven", status: http.StatusForbidden, oauth: "forbidden", event: true, actor: operator,
		meaning: "The request came on the node's network, and NMI runs with --capture=require, which answers pods inside " +
			"their own network only.",
		remedy: "Run the pod without Kata or gVisor, so that its processes are in the node's kernel, or run NMI with " +
			"--capture=prefer.",
	},
	ClientGone: {
		name: "ClientGone", status: http.StatusInternalServerError, oauth: "server_error", actor: noAction,
		meaning: "The client disconnected before its answer could be sent.",
		remedy:  "Nothing. If it is frequent, look at the client's timeout.",
	},
	PodUnknown: {
		name: "PodUnknown", status: http.StatusInternalServerError, oauth: "pod_unknown", actor: noAction,
		meaning: "The pod is known, and what it may use is not worked out yet.",
		remedy:  "Try again.",
	},
	InstanceBlocked: {
		name: "Blocked", status: http.StatusForbidden, oauth: "forbidden", actor: operator,
		meaning: "The metadata of the machine is kept from pods.",
		remedy:  "Run NMI with --block-instance-metadata=false if pods should read it.",
	},
	AttestedBlocked: {
		name: "Blocked", status: http.StatusForbidden, oauth: "forbidden", actor: operator,
		meaning: "The machine's signed document is kept from pods.",
		remedy:  "Run NMI with --block-attested-document=false if pods should read it.",
	},
	UserDataBlocked: {
		name: "Blocked", status: http.StatusForbidden, oauth: "forbidden", actor: operator,
		meaning: "The machine's user data is kept from pods.",
		remedy:  "Run NMI with --block-user-data=false if pods should read it.",
	},

	NoLabel: {
		name: "NoLabel", status: http.StatusBadRequest, oauth: "invalid_request", verbatim: true, actor: owner,
		meaning: "The pod has no label aadpodidbinding, or an empty one.",
		remedy:  "Set the label to the selector of an AzureIdentityBinding.",
	},
	NoBinding: {
		name: "NoBinding", status: http.StatusNotFound, oauth: "identity_not_bound", event: true, transient: true, actor: owner,
		meaning: "No AzureIdentityBinding grants the pod the identity.",
		remedy: "Create a binding in the pod's namespace whose selector is the value of the pod's label " +
			"aadpodidbinding, or correct the label.",
	},
	NoSelector: {
		name: "NoSelector", actor: owner,
		meaning: "An AzureIdentityBinding has no selector, so it selects no pod.",
		remedy:  "Set spec.selector to the value of the pods' label aadpodidbinding.",
	},
	IdentityMissing: {
		name: "IdentityMissing", status: http.StatusNotFound, oauth: "identity_not_bound", event: true, transient: true, actor: owner,
		meaning: "A binding selects the pod and names an AzureIdentity that does not exist in the binding's " +
			"namespace, or is being deleted.",
		remedy: "Create the AzureIdentity in the binding's namespace, or correct spec.azureIdentity.",
	},
	OtherNamespace: {
		name: "OtherNamespace", status: http.StatusNotFound, oauth: "identity_not_bound", event: true, transient: true, actor: owner,
		meaning: "A binding with the pod's selector lives in another namespace.",
		remedy: "Create binding and identity in the pod's namespace, or run MIC and NMI with " +
			"--forceNamespaced=false.",
	},
	NamespacedIdentity: {
		name: "NamespacedIdentity", status: http.StatusNotFound, oauth: "identity_not_bound", event: true, transient: true, actor: owner,
		meaning: "The AzureIdentity has the annotation that limits it to its own namespace, and the pod lives in " +
			"another.",
		remedy: "Create identity and binding in the pod's namespace, or remove the annotation.",
	},
	IdentityBroken: {
		name: "IdentityBroken", status: http.StatusForbidden, oauth: "identity_broken", event: true, actor: owner,
		meaning: "The AzureIdentity lacks what its type needs, or has it in the wrong form.",
		remedy:  "Correct the field that the message names.",
	},
	NotShared: {
		name: "NotShared", status: http.StatusNotFound, oauth: "identity_not_bound", event: true, transient: true, actor: owner,
		meaning: "The AzureIdentity is shared from one of another namespace, whose owner has not allowed that.",
		remedy: "Ask the owner of the other identity to allow the namespace by annotation, and make the fields " +
			"that the message names equal.",
	},
	NoMatch: {
		name: "NoMatch", status: http.StatusBadRequest, oauth: "invalid_request", event: true, verbatim: true, actor: owner,
		meaning: "The request names an identity that is not one of those the pod may use.",
		remedy:  "Ask for one of the pod's identities, or bind the other one to the pod.",
	},
	TooManyIdentities: {
		name: "TooManyIdentities", status: http.StatusBadRequest, oauth: "invalid_request", event: true, verbatim: true, actor: owner,
		meaning: "Bindings grant the pod more identities than a pod can use.",
		remedy:  "Give the pod's label a selector of fewer bindings.",
	},
	HostNetwork: {
		name: "HostNetwork", actor: owner,
		meaning: "The pod uses the node's network, where its requests cannot be distinguished from those of the node.",
		remedy:  "Run the pod with hostNetwork: false, or remove the label aadpodidbinding.",
	},
	TypeNotSupported: {
		name: "TypeNotSupported", status: http.StatusForbidden, oauth: "identity_type_not_supported", event: true, actor: operator,
		meaning: "This node agent has no source of tokens for identities of that type.",
		remedy:  "Use an identity of another type, or upgrade NMI.",
	},

	UseForbidden: {
		name: "ForbiddenByPolicy", status: http.StatusForbidden, oauth: "identity_forbidden", event: true, actor: cluster,
		meaning: "No rule of the AzureIdentityPolicy allows the pod's ServiceAccount to use the identity.",
		remedy:  "Ask the owner of the cluster for a rule that names the namespace and the identity.",
	},
	AudienceForbidden: {
		name: "ForbiddenByPolicy", status: http.StatusForbidden, oauth: "identity_forbidden", event: true, actor: cluster,
		meaning: "The rule that allows the identity does not allow tokens for this resource.",
		remedy:  "Ask for one of the rule's audiences, or ask the owner of the cluster to add this one.",
	},
	ExceptionForbidden: {
		name: "ForbiddenByPolicy", status: http.StatusForbidden, oauth: "identity_forbidden", event: true, actor: cluster,
		meaning: "An AzurePodIdentityException has no effect: no rule with plainIMDS: true is for its namespace.",
		remedy:  "Ask the owner of the cluster for such a rule.",
	},
	ClusterIdentity: {
		name: "ClusterIdentity", status: http.StatusForbidden, oauth: "identity_forbidden", event: true, actor: cluster,
		meaning: "The identity is the cluster's own, such as the kubelet's or MIC's.",
		remedy: "Use another identity, have this one named for the namespace in the AzureIdentityPolicy, or run " +
			"MIC and NMI with --allow-cluster-identities.",
	},
	ClusterToken: {
		name: "ClusterIdentity", status: http.StatusForbidden, oauth: "cluster_identity", event: true, actor: cluster,
		meaning: "The token that the source returned is for an identity of the cluster itself.",
		remedy: "As for ClusterIdentity; check that spec.clientID and spec.resourceID are those of the " +
			"application's own identity.",
	},
	WouldBeRefused: {
		name: "WouldBeRefused", event: true, actor: cluster,
		meaning: "The policy is in mode warn: what it would refuse is granted for now.",
		remedy:  "Add a rule to the AzureIdentityPolicy before it is enforced, or stop the use.",
	},
	Excepted: {
		name: "Excepted", status: http.StatusForbidden, oauth: "forbidden", actor: program,
		meaning: "An AzurePodIdentityException gives the pod the plain metadata service, and a process of the node " +
			"asked for its token.",
		remedy: "Ask the metadata service itself, or remove the exception.",
	},

	IdentityRefused: {
		name: "IdentityRefused", actor: owner,
		meaning: "Azure refuses to assign this identity to the node, and takes others.",
		remedy: "Check that the identity exists and that spec.resourceID is right: az identity show --ids " +
			"<resourceID>.",
	},
	IdentityForbidden: {
		name: "IdentityForbidden", actor: operator,
		meaning: "MIC's own identity may not assign this identity.",
		remedy:  "Grant MIC's identity the role Managed Identity Operator on it.",
	},
	ClientIDMismatch: {
		name: "ClientIDMismatch", actor: owner,
		meaning: "spec.clientID is not the client ID that Azure has for spec.resourceID.",
		remedy:  "Correct one of them: az identity show --ids <resourceID> --query clientId.",
	},
	LedgerFull: {
		name: "LedgerFull", actor: owner,
		meaning: "MIC's record of what it attached to the node group has no room for another identity of the " +
			"namespace.",
		remedy: "Remove bindings that are not needed, or run the pods on other node groups.",
	},
	GroupForbidden: {
		name: "NodeGroupForbidden", actor: operator,
		meaning: "MIC's own identity may not update the VM or scale set.",
		remedy:  "Grant MIC's identity the role Virtual Machine Contributor on the nodes' resource group.",
	},
	GroupLocked: {
		name: "NodeGroupLocked", actor: operator,
		meaning: "A lock forbids every change of the VM or scale set.",
		remedy:  "Delete the lock (az lock list --resource-group <group>), or run the pods on other nodes.",
	},
	GroupMissing: {
		name: "NodeGroupMissing", actor: operator,
		meaning: "Azure does not know the VM or scale set that the node's spec.providerID names.",
		remedy:  "Delete the Node object if the machine is gone; else correct spec.providerID.",
	},
	GroupBlocked: {
		name: "NodeGroupBlocked", actor: operator,
		meaning: "Azure refuses every update of the VM or scale set because of an identity on it that podid must " +
			"not remove.",
		remedy: "Remove that identity with the command in the message.",
	},
	NodeNotOnAzure: {
		name: "NodeNotOnAzure", actor: operator,
		meaning: "The node has no spec.providerID of Azure, so managed identities cannot be assigned to it.",
		remedy:  "Run the pod on a node of Azure, or use an identity of type 1, 2 or 3.",
	},
	UpdateFailing: {
		name: "UpdateFailing", actor: noAction,
		meaning: "Updates of the VM or scale set keep failing. MIC keeps trying.",
		remedy:  "If it stays so, look at Azure's error in the message.",
	},
	NotPreassigned: {
		name: "NotPreassigned", actor: owner,
		meaning: "The annotation that pre-assigns an identity has no effect.",
		remedy:  "Correct the annotation as the message says.",
	},
	BrokerNamespaceMissing: {
		name: "NamespaceMissing", transient: true, actor: operator,
		meaning: "The namespace of the broker ServiceAccounts does not exist.",
		remedy:  "Create it: helm upgrade does.",
	},
	BrokerRefused: {
		name: "Forbidden", transient: true, actor: operator,
		meaning: "MIC may not create or list the broker ServiceAccounts of federated identities.",
		remedy:  "Grant MIC the right, as the chart's Role does, or create the ServiceAccount: podid identity federate.",
	},
	NotAssigned: {
		name: "IdentityNotAssigned", status: http.StatusNotFound, oauth: "identity_not_assigned", event: true, actor: noAction,
		meaning: "The identity is granted and has not been assigned to the node yet.",
		remedy:  "Try again. If it stays so, look at the pod's Events and check that MIC runs.",
	},
	AssigningRetry: {
		name: "IdentityNotAssigned", status: http.StatusServiceUnavailable, oauth: "identity_not_assigned", event: true, actor: noAction,
		meaning: "As NotAssigned, where NMI runs with --set-retry-after-header and does not hold requests.",
		remedy:  "Try again after the time in the header Retry-After.",
	},
	Quarantined: {
		name: "IdentityQuarantined", status: http.StatusForbidden, oauth: "identity_quarantined", event: true, actor: owner,
		meaning: "The identity cannot be assigned to the node. The message has MIC's reason and, in newer releases, " +
			"its code.",
		remedy: "Do what the message says; MIC tries again by itself.",
	},

	SourceFailed: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "server_error", event: true, actor: noAction,
		meaning: "The source of tokens failed in a way that has no reason of its own.",
		remedy:  "Try again; the audit log has the error.",
	},
	ReplyUnusable: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "source_trouble", event: true, actor: noAction,
		meaning: "The answer of the source has no usable token.",
		remedy:  "Try again; the audit log has the error.",
	},
	TokenUnreadable: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "server_error", event: true, actor: noAction,
		meaning: "The token cannot be written in the form for processes of the node.",
		remedy:  "Try again; the audit log has the error.",
	},
	IMDSTrouble: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "metadata_service_trouble", event: true, actor: noAction,
		meaning: "The metadata service of the node does not answer, or not with a token.",
		remedy:  "Try again. If it stays so, check the node's metadata service.",
	},
	IMDSBusy: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "metadata_service_busy", event: true, actor: noAction,
		meaning: "Too many token requests of the node wait for the metadata service.",
		remedy:  "Try again.",
	},
	IMDSThrottled: {
		name: "SourceFailed", status: http.StatusTooManyRequests, oauth: "too_many_requests", event: true, actor: noAction,
		meaning: "The metadata service has too many requests.",
		remedy:  "Try again after the time in the header Retry-After.",
	},
	NotOnNode: {
		name: "SourceFailed", status: http.StatusNotFound, oauth: "identity_not_on_node", event: true, transient: true, actor: owner,
		meaning: "The metadata service does not have the identity.",
		remedy: "Check spec.resourceID and spec.clientID, and that the identity is assigned to the node's VM or " +
			"scale set.",
	},
	IMDSRefused: {
		name: "SourceFailed", status: http.StatusBadRequest, oauth: "invalid_request", event: true, actor: program,
		meaning: "The metadata service refuses the request; status, error code and message are its own. Most often " +
			"the resource is wrong.",
		remedy: "Correct the resource that the program asks for.",
	},
	UpstreamFailed: {
		name: "UpstreamFailed", status: http.StatusBadGateway, oauth: "metadata_service_trouble", actor: noAction,
		meaning: "A request that is passed on to the metadata service got no answer.",
		remedy:  "Try again. If it stays so, check the node's metadata service.",
	},
	UpstreamThrottled: {
		name: "Throttled", status: http.StatusTooManyRequests, oauth: "too_many_requests", actor: noAction,
		meaning: "The metadata service has too many requests to pass on another.",
		remedy:  "Try again after the time in the header Retry-After.",
	},
	EntraTrouble: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "entra_id_trouble", event: true, actor: noAction,
		meaning: "Entra ID does not answer, or not with a token.",
		remedy:  "Try again. If it stays so, check the node's way to Entra ID.",
	},
	EntraBusy: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "entra_id_busy", event: true, actor: noAction,
		meaning: "Too many token requests of the node wait for Entra ID.",
		remedy:  "Try again.",
	},
	EntraThrottled: {
		name: "SourceFailed", status: http.StatusTooManyRequests, oauth: "too_many_requests", event: true, actor: noAction,
		meaning: "Entra ID has too many requests of this identity.",
		remedy:  "Try again after the time in the header Retry-After.",
	},
	EntraRefused: {
		name: "SourceFailed", status: http.StatusForbidden, oauth: "entra_id_refused", event: true, actor: owner,
		meaning: "Entra ID refuses the identity: its secret, certificate, federated credential, application or " +
			"tenant is wrong.",
		remedy: "Do what the message says; it has Entra ID's own code (AADSTS).",
	},
	EntraResource: {
		name: "SourceFailed", status: http.StatusBadRequest, oauth: "invalid_resource", event: true, actor: program,
		meaning: "Entra ID knows no such resource in this tenant.",
		remedy:  "Correct the resource that the program asks for.",
	},
	ClockWrong: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "clock_wrong", event: true, actor: operator,
		meaning: "Entra ID refuses the proof of the identity because of its times.",
		remedy:  "Set the clock of the node and of the API server.",
	},
	SecretMissing: {
		name: "SourceFailed", status: http.StatusNotFound, oauth: "secret_missing", event: true, transient: true, actor: owner,
		meaning: "The Secret of the AzureIdentity does not exist.",
		remedy:  "Create it, or correct spec.clientPassword.",
	},
	SecretForbidden: {
		name: "SourceFailed", status: http.StatusForbidden, oauth: "secret_forbidden", event: true, actor: operator,
		meaning: "The node agent may not read the Secret of the AzureIdentity.",
		remedy:  "Add its namespace to the chart's rbac.secretNamespaces.",
	},
	SecretUnusable: {
		name: "SourceFailed", status: http.StatusForbidden, oauth: "identity_broken", event: true, actor: owner,
		meaning: "The Secret or the spec of the AzureIdentity cannot be used.",
		remedy:  "Correct what the message names.",
	},
	APIServerTrouble: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "api_server_trouble", event: true, actor: noAction,
		meaning: "The API server did not give the Secret or the broker's token.",
		remedy:  "Try again. If it stays so, check the API server.",
	},
	KeyBusy: {
		name: "SourceFailed", status: http.StatusInternalServerError, oauth: "certificate_busy", event: true, actor: noAction,
		meaning: "Too many key files wait to be read.",
		remedy:  "Try again.",
	},
	BrokerMissing: {
		name: "SourceFailed", status: http.StatusNotFound, oauth: "broker_missing", event: true, transient: true, actor: operator,
		meaning: "The broker ServiceAccount of the federated identity does not exist.",
		remedy:  "Check that MIC runs; else create it: podid identity federate.",
	},
	BrokerForbidden: {
		name: "SourceFailed", status: http.StatusNotFound, oauth: "broker_forbidden", event: true, transient: true, actor: operator,
		meaning: "The node agent may not get a token of the identity's broker ServiceAccount.",
		remedy:  "Check the chart's federation values, and federation.audiences for an audience of your own.",
	},
	OtherIdentity: {
		name: "TokenOfAnotherIdentity", status: http.StatusForbidden, oauth: "token_of_another_identity", event: true, actor: owner,
		meaning: "The source returned a token of another identity than the one in the spec of the AzureIdentity.",
		remedy:  "Correct spec.clientID, spec.resourceID or spec.adEndpoint as the message says.",
	},

	NotReady: {
		name: "NotReady", status: http.StatusInternalServerError, oauth: "caller_unknown", actor: noAction,
		meaning: "The node agent has not read the cluster's objects yet.",
		remedy:  "Try again. If it stays so, check the node agent's way to the API server.",
	},
	Stopping: {
		name: "Stopping", status: http.StatusInternalServerError, oauth: "caller_unknown", actor: noAction,
		meaning: "The node agent is being restarted.",
		remedy:  "Try again.",
	},
	Unsteady: {
		name: "Unsteady", status: http.StatusInternalServerError, oauth: "server_error", actor: noAction,
		meaning: "What the pod may use changes faster than a token can be fetched.",
		remedy:  "Try again.",
	},
	TooManyWaiting: {
		name: "TooManyWaiting", status: http.StatusTooManyRequests, oauth: "too_many_requests", actor: noAction,
		meaning: "Too many requests of the pod or its namespace wait for their identities.",
		remedy: "Try again after the time in the header Retry-After. If it stays so, look for a program that asks " +
			"in a loop.",
	},
	Busy: {
		name: "Busy", status: http.StatusTooManyRequests, oauth: "too_many_requests", actor: noAction,
		meaning: "Too many requests of the pod or its namespace wait for the source of tokens or for the metadata " +
			"service.",
		remedy: "Try again after the time in the header Retry-After. If it stays so, look for a program that asks " +
			"in a loop.",
	},
}
