// All endpoints except tokens: the instance tree, versions, attestation, events.

package imds

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// versions returns the list of /metadata/versions; other versions of the same form are also
// accepted.
func versions() []string {
	return []string{
		"2017-03-01", "2017-04-02", "2017-08-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01", "2019-02-01",
		"2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01", "2020-06-01",
		"2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01", "2021-01-01", "2021-02-01", "2021-05-01", "2021-11-01",
		"2021-11-15", "2021-12-13", "2023-07-01",
	}
}

// metadata serves every path except the token path.
func (h *Handler) metadata(q *request) {
	if _, wait := h.world.Take("imds/"+q.caller.VMID(), h.world.Settings().Limits.Metadata); wait > 0 {
		q.throttle(wait)
		return
	}
	switch {
	case q.path == "/metadata/versions":
		if q.get() {
			writeJSON(q.w, http.StatusOK, map[string][]string{"apiVersions": versions()})
		}
	case strings.HasPrefix(q.path, "/metadata/identity/"):
		h.identity(q)
	case q.path == "/metadata/scheduledevents":
		h.events(q)
	case strings.HasPrefix(q.path+"/", "/metadata/instance/"):
		h.instance(q)
	case q.path == "/metadata/attested/document":
		h.attested(q)
	case q.path == "/metadata/loadbalancer":
		if q.get() && h.versioned(q) {
			writeJSON(q.w, http.StatusOK, map[string]any{"loadbalancer": map[string]any{
				"publicIpAddresses": []any{}, "inboundRules": []any{}, "outboundRules": []any{},
			}})
		}
	default:
		q.refuse(http.StatusNotFound, "not_found", "There is nothing at this path.")
	}
}

// versioned requires an api-version.
func (h *Handler) versioned(q *request) bool {
	version, ok := q.param("api-version")
	if !ok {
		return false
	}
	if versionShape.MatchString(version) {
		return true
	}
	front.Detail(q.r.Context(), "error", "api-version")
	writeJSON(q.w, http.StatusBadRequest, map[string]any{
		"error": "Bad request. api-version was not specified in the request, or is none. For more information refer to " +
			"aka.ms/azureimds",
		"newest-versions": []string{"2023-07-01", "2021-12-13", "2021-11-15"},
	})
	return false
}

// identity serves the paths next to the token path. They expose the VM's own data, so a proxy must
// block pods from them. "leak" in the request log marks a request that got through.
func (h *Handler) identity(q *request) {
	front.Detail(q.r.Context(), "leak", "identity path of the VM")
	switch q.path {
	case "/metadata/identity/info":
		if q.get() && h.versioned(q) {
			writeJSON(q.w, http.StatusOK, map[string]string{"tenantId": q.caller.TenantID})
		}
	case "/metadata/identity/getplatformmetadata":
		if q.get() {
			writeJSON(q.w, http.StatusOK, map[string]any{
				"clientId": clientID(q.caller), "tenantId": q.caller.TenantID,
				"cuId": map[string]string{"vmId": q.caller.VMID()}, "attestationEndpoint": "",
			})
		}
	case "/metadata/identity/issuecredential", "/metadata/identity/credential":
		if q.r.Method != http.MethodPost {
			q.refuse(http.StatusMethodNotAllowed, "method_not_allowed", "Only POST is allowed at this path.")
			return
		}
		writeJSON(q.w, http.StatusOK, map[string]string{
			"client_id": clientID(q.caller), "tenant_id": q.caller.TenantID, "certificate": "",
			"error": "the emulator issues no certificates; that this was asked at all is in the request log",
		})
	default:
		q.refuse(http.StatusNotFound, "not_found", "There is nothing at this path.")
	}
}

func clientID(c world.Caller) string {
	switch {
	case c.System != nil:
		return c.System.ClientID
	case len(c.User) > 0:
		return c.User[0].ClientID
	}
	return ""
}

// events lists no scheduled events, and accepts acknowledgments.
func (h *Handler) events(q *request) {
	if !h.versioned(q) {
		return
	}
	switch q.r.Method {
	case http.MethodGet:
		writeJSON(q.w, http.StatusOK, map[string]any{"DocumentIncarnation": 1, "Events": []any{}})
	case http.MethodPost:
		front.Detail(q.r.Context(), "leak", "acknowledges an event of the VM")
		q.w.WriteHeader(http.StatusOK)
	default:
		q.refuse(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed at this path.")
	}
}

// attested returns a document about the VM. Unlike the real one it is not signed.
func (h *Handler) attested(q *request) {
	if !q.get() || !h.versioned(q) {
		return
	}
	nonce, ok := q.param("nonce")
	if !ok {
		return
	}
	if len(nonce) > 10 {
		q.refuse(http.StatusBadRequest, "invalid_request", "The nonce has more than 10 digits")
		return
	}
	front.Detail(q.r.Context(), "leak", "attests the VM")
	document := fmt.Sprintf(`{"vmId":%q,"subscriptionId":%q,"nonce":%q,"emulated":true}`,
		q.caller.VMID(), q.caller.Machine.SubscriptionID, nonce)
	writeJSON(q.w, http.StatusOK, map[string]string{
		"encoding": "pkcs7", "signature": base64.StdEncoding.EncodeToString([]byte(document)),
	})
}

// instance serves the tree of properties of the VM.
func (h *Handler) instance(q *request) {
	if !q.get() || !h.versioned(q) {
		return
	}
	format, ok := q.param("format")
	if !ok {
		return
	}
	node, found := walk(tree(q.caller), strings.Split(strings.TrimPrefix(q.path, "/metadata/instance"), "/"))
	leaf, isLeaf := node.(string)
	switch {
	case !found:
		q.refuse(http.StatusNotFound, "not_found", "There is nothing at this path.")
	case isLeaf && !world.EqualFold(format, "text"):
		q.refuse(http.StatusBadRequest, "bad_request", "A single value is available as text only: add format=text")
	case isLeaf:
		writeText(q.w, leaf)
	case world.EqualFold(format, "text"):
		writeText(q.w, strings.Join(children(node), "\n"))
	default:
		writeJSON(q.w, http.StatusOK, node)
	}
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text))
}

// walk follows the path. Names are case-insensitive, because the path was folded.
func walk(node any, parts []string) (any, bool) {
	for _, part := range parts {
		if part == "" {
			continue
		}
		var next any
		switch n := node.(type) {
		case map[string]any:
			for name, value := range n {
				if world.EqualFold(name, part) {
					next = value
				}
			}
		case []any:
			if i, err := strconv.Atoi(part); err == nil && i >= 0 && i < len(n) {
				next = n[i]
			}
		}
		if next == nil {
			return nil, false
		}
		node = next
	}
	return node, true
}

// children lists the entries of a node as text responses do: one name a line, nodes with a trailing
// slash.
func children(node any) []string {
	var names []string
	switch n := node.(type) {
	case map[string]any:
		for name, value := range n {
			if _, leaf := value.(string); !leaf {
				name += "/"
			}
			names = append(names, name)
		}
		sort.Strings(names)
	case []any:
		for i := range n {
			names = append(names, strconv.Itoa(i)+"/")
		}
	}
	return names
}

// tree returns /metadata/instance. All primitive values are strings, as on Azure.
func tree(c world.Caller) map[string]any {
	set, name := "", c.Instance.Name
	resource := c.Machine.String()
	if c.Machine.Kind == world.VMSS {
		set = c.Machine.Name
		name = c.Machine.Name + "_" + c.Instance.ID
		resource += "/virtualMachines/" + c.Instance.ID
	}
	tags, list := []string{}, []any{}
	for key, value := range c.Tags {
		tags = append(tags, key+":"+value)
	}
	slices.Sort(tags)
	for _, tag := range tags {
		key, value, _ := strings.Cut(tag, ":")
		list = append(list, map[string]any{"name": key, "value": value})
	}
	return map[string]any{
		"compute": map[string]any{
			"azEnvironment": "AzureStackCloud", "location": c.Location, "name": name, "offer": "", "osType": "Linux",
			"osProfile":        map[string]any{"adminUsername": "azureuser", "computerName": c.Instance.Name},
			"placementGroupId": "", "plan": map[string]any{"name": "", "product": "", "publisher": ""},
			"platformFaultDomain": "0", "platformUpdateDomain": "0", "provider": "Microsoft.Compute", "publisher": "",
			"resourceGroupName": c.Machine.ResourceGroup, "resourceId": resource, "sku": "",
			"subscriptionId": c.Machine.SubscriptionID, "tags": strings.Join(tags, ";"), "tagsList": list,
			"version": "", "vmId": c.VMID(), "vmScaleSetName": set, "vmSize": "Standard_D2s_v5", "zone": "",
		},
		"network": map[string]any{"interface": []any{network(c)}},
	}
}

func network(c world.Caller) map[string]any {
	v4, v6, subnets := []any{}, []any{}, []any{}
	for _, text := range c.Instance.Addresses {
		address, err := netip.ParseAddr(text)
		switch {
		case err != nil: // the world has validated it
		case address.Is4():
			v4 = append(v4, map[string]any{"privateIpAddress": text, "publicIpAddress": ""})
			if prefix, err := address.Prefix(24); err == nil {
				subnets = append(subnets, map[string]any{"address": prefix.Addr().String(), "prefix": "24"})
			}
		default:
			v6 = append(v6, map[string]any{"privateIpAddress": text})
		}
	}
	mac := strings.ToUpper(strings.ReplaceAll(c.VMID(), "-", ""))
	return map[string]any{
		"ipv4": map[string]any{"ipAddress": v4, "subnet": subnets}, "ipv6": map[string]any{"ipAddress": v6},
		"macAddress": "000D3A" + mac[:6],
	}
}
