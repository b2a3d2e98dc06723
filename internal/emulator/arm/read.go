// Reading all resources except machines, which are in machine.go.

package arm

import (
	"net/http"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// object is a JSON object in a response.
type object = map[string]any

// list responds with a list, always on a single page.
func list[T any](c *call, items []T, show func(T) object) *failure {
	value := make([]object, 0, len(items))
	for _, item := range items {
		value = append(value, show(item))
	}
	writeJSON(c.w, http.StatusOK, object{"value": value})
	return nil
}

func (h *Handler) listTenants(c *call) *failure {
	tenants := map[string]bool{}
	for _, s := range h.world.Subscriptions() {
		tenants[s.TenantID] = true
	}
	ids := make([]string, 0, len(tenants))
	for id := range tenants {
		ids = append(ids, id)
	}
	return list(c, ids, func(id string) object { return object{"id": "/tenants/" + id, "tenantId": id} })
}

func (h *Handler) listSubscriptions(c *call) *failure {
	var visible []world.Subscription
	for _, s := range h.world.Subscriptions() {
		if world.EqualFold(s.TenantID, c.principal.TenantID) && h.world.Sees(c.principal.PrincipalID, s.ID) {
			visible = append(visible, s)
		}
	}
	return list(c, visible, showSubscription)
}

func (h *Handler) getSubscription(c *call) *failure {
	s, _ := h.world.Subscription(c.subscription()) // serve has checked that it exists
	if !h.world.Sees(c.principal.PrincipalID, s.ID) {
		return noSubscription(c.subscription())
	}
	writeJSON(c.w, http.StatusOK, showSubscription(s))
	return nil
}

func showSubscription(s world.Subscription) object {
	return object{
		"id": "/subscriptions/" + s.ID, "subscriptionId": s.ID, "displayName": s.Name, "tenantId": s.TenantID,
		"state": "Enabled", "authorizationSource": "RoleBased",
		"subscriptionPolicies": object{"locationPlacementId": "Public_2014-09-01", "quotaId": "Emulated_2014-09-01", "spendingLimit": "Off"},
	}
}

func (h *Handler) listGroups(c *call) *failure {
	return list(c, h.world.ResourceGroups(c.subscription()), func(name string) object { return showGroup(c.subscription(), name) })
}

func (h *Handler) getGroup(c *call) *failure {
	name, err := h.group(c)
	if err != nil {
		return err
	}
	writeJSON(c.w, http.StatusOK, showGroup(c.subscription(), name))
	return nil
}

// group returns the resource group of the path in the world's spelling.
func (h *Handler) group(c *call) (string, *failure) {
	for _, name := range h.world.ResourceGroups(c.subscription()) {
		if world.EqualFold(name, c.group()) {
			return name, nil
		}
	}
	return "", fail(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", bounded(c.group()))
}

func showGroup(subscription, name string) object {
	return object{
		"id": "/subscriptions/" + subscription + "/resourceGroups/" + name, "name": name,
		"type": "Microsoft.Resources/resourceGroups", "location": "westeurope",
		"properties": object{"provisioningState": "Succeeded"},
	}
}

func (h *Handler) listIdentities(c *call) *failure {
	return list(c, h.world.Identities(c.subscription(), c.group()), showIdentity)
}

func (h *Handler) getIdentity(c *call) *failure {
	if _, err := h.group(c); err != nil {
		return err
	}
	id := world.IdentityID{SubscriptionID: c.subscription(), ResourceGroup: c.group(), Name: c.params["name"]}
	for _, i := range h.world.Identities(c.subscription(), c.group()) {
		if parsed, err := world.ParseIdentityID(i.ResourceID); err == nil && world.EqualFold(parsed.Name, id.Name) {
			writeJSON(c.w, http.StatusOK, showIdentity(i))
			return nil
		}
	}
	return notFound("Microsoft.ManagedIdentity/userAssignedIdentities", c)
}

func showIdentity(i world.Identity) object {
	name := i.ResourceID[strings.LastIndexByte(i.ResourceID, '/')+1:]
	return object{
		"id": i.ResourceID, "name": name, "type": "Microsoft.ManagedIdentity/userAssignedIdentities",
		"location":   "westeurope",
		"properties": object{"tenantId": i.TenantID, "principalId": i.PrincipalID, "clientId": i.ClientID},
	}
}

func notFound(kind string, c *call) *failure {
	return fail(http.StatusNotFound, "ResourceNotFound",
		"The Resource '%s/%s' under resource group '%s' was not found. For more details please go to "+
			"https://aka.ms/ARMResourceNotFoundFix", kind, bounded(c.params["name"]), bounded(c.group()))
}

// getOperation serves the URLs of a write's headers: Azure-AsyncOperation (a status document) and
// Location (monitor=true: the resource, once the operation is done).
func (h *Handler) getOperation(c *call) *failure {
	op, ok := h.world.Operation(c.params["operation"])
	if !ok || !world.EqualFold(op.Machine.SubscriptionID, c.subscription()) {
		return fail(http.StatusNotFound, "NotFound", "The operation '%s' was not found.", bounded(c.params["operation"]))
	}
	if err := h.limitMachine(c, op.Machine, "GetOperation", h.world.Settings().Limits.OperationReads); err != nil {
		return err
	}
	if !op.Done {
		h.retryAfter(c.w)
	}
	if queryFold(c.r, "monitor") == "true" {
		return h.getResult(c, op)
	}
	writeJSON(c.w, http.StatusOK, showOperation(op))
	return nil
}

// getResult returns the resource that the operation changed, once the operation is done.
func (h *Handler) getResult(c *call, op world.Operation) *failure {
	if !op.Done {
		c.w.Header().Set("Location", "https://"+c.r.Host+c.r.URL.RequestURI())
		c.w.WriteHeader(http.StatusAccepted)
		return nil
	}
	if op.Failed != "" {
		return fail(http.StatusConflict, op.Failed, "%s", failedText(op))
	}
	view, ok := h.world.Machine(op.Machine)
	if !ok {
		return fail(http.StatusNotFound, "NotFound", "The resource of the operation is gone.")
	}
	writeJSON(c.w, http.StatusOK, showMachine(view))
	return nil
}

// showOperation returns the status document of an operation.
func showOperation(op world.Operation) object {
	const stamp = "2006-01-02T15:04:05.0000000-07:00"
	body := object{"startTime": op.Started.Format(stamp), "status": "InProgress", "name": op.ID}
	if op.Done {
		body["status"], body["endTime"] = "Succeeded", op.Ends.Format(stamp)
	}
	if op.Done && op.Failed != "" {
		body["status"], body["error"] = "Failed", errorBody{Code: op.Failed, Message: failedText(op)}
		if world.EqualFold(op.Failed, preempted) {
			body["status"] = "Canceled"
		}
	}
	return body
}

// preempted is the code of an operation that was preempted by a later one.
const preempted = "OperationPreempted"

// failedText returns the message of a failed operation.
func failedText(op world.Operation) string {
	if world.EqualFold(op.Failed, preempted) {
		return "Operation execution has been preempted by a more recent operation."
	}
	return "The operation was asked to fail."
}

// metadata returns the endpoints of this cloud, as Azure Stack does (api-version 2015 to 2021) and
// as the public cloud does (2022-09-01: a list with more fields). It needs no token.
func (h *Handler) metadata(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		fail(http.StatusMethodNotAllowed, "HttpMethodNotSupported", "Only GET is supported here.").write(w)
		return
	}
	arm, login := h.endpoints.ARM+"/", h.endpoints.Entra+"/"
	audiences := []string{arm, h.endpoints.ARM}
	cloud := object{
		"galleryEndpoint": arm, "graphEndpoint": login, "portalEndpoint": arm, "graphAudience": login,
		"authentication": object{
			"loginEndpoint": login, "audiences": audiences, "tenant": "common", "identityProvider": "AAD",
		},
	}
	if queryFold(r, "api-version") < "2019" { // includes "1.0" and 2015-01-01
		writeJSON(w, http.StatusOK, cloud)
		return
	}
	cloud["name"], cloud["portal"], cloud["graph"], cloud["gallery"] = "AzureStackCloud", arm, login, arm
	cloud["resourceManager"], cloud["media"], cloud["batch"] = arm, arm, arm
	cloud["microsoftGraphResourceId"] = login
	cloud["suffixes"] = object{"keyVaultDns": "vault.emulated.invalid", "storage": "storage.emulated.invalid"}
	if queryFold(r, "api-version") < "2022" {
		writeJSON(w, http.StatusOK, []object{cloud})
		return
	}
	writeJSON(w, http.StatusOK, cloud)
}

func (h *Handler) retryAfter(w http.ResponseWriter) {
	if s := h.world.Settings().ARM.RetryAfter; s > 0 {
		w.Header().Set("Retry-After", seconds(time.Duration(s)*time.Second))
	}
}
