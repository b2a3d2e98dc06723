// Writing the identities of VMs and scale sets.

package arm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// writeMachine handles PATCH, which merges, and PUT, which replaces.
func (h *Handler) writeMachine(c *call, kind world.Kind) *failure {
	view, err := h.machine(c, kind)
	if err != nil {
		return err
	}
	change, err := readChange(c, view)
	if err != nil {
		return err
	}
	front.Detail(c.r.Context(), "named", strconv.Itoa(len(change.Identities)))
	if err := h.checkLinked(c, view, change); err != nil {
		return err
	}
	if err := h.limitCompute(c, view); err != nil {
		return err
	}
	change.ETag, change.Fail = c.r.Header.Get("If-Match"), front.FailedOperation(c.r.Context())
	op, startErr := h.world.BeginUpdate(view.ID, change)
	if startErr != nil {
		return refusal(view, startErr)
	}
	front.Detail(c.r.Context(), "operation", op.ID)
	front.Detail(c.r.Context(), "added", strings.Join(op.Added, " "))
	front.Detail(c.r.Context(), "removed", strings.Join(op.Removed, " "))
	h.log.InfoContext(c.r.Context(), "identities change", "machine", view.Name, "added", len(op.Added),
		"removed", len(op.Removed), "duration", op.Ends.Sub(op.Started))
	view, _ = h.world.Machine(view.ID)
	h.announce(c, view, op)
	writeJSON(c.w, http.StatusOK, showMachine(view))
	return nil
}

// announce sets the headers with the operation's URLs.
func (h *Handler) announce(c *call, view world.MachineView, op world.Operation) {
	status := fmt.Sprintf("https://%s/subscriptions/%s/providers/Microsoft.Compute/locations/%s/operations/%s",
		c.r.Host, view.SubscriptionID, view.Location, op.ID)
	c.w.Header().Set("Azure-Asyncoperation", status+"?api-version="+c.version())
	c.w.Header().Set("Azure-Asyncnotification", "Enabled")
	c.w.Header().Set("Location", status+"?monitor=true&api-version="+c.version())
	h.retryAfter(c.w)
}

// readChange reads the identity section of a body.
func readChange(c *call, view world.MachineView) (world.Change, *failure) {
	data, err := io.ReadAll(c.r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return world.Change{}, fail(http.StatusRequestEntityTooLarge, "RequestContentTooLarge", "The request content is too large.")
	}
	var body struct {
		Identity *struct {
			Type string `json:"type"`
			// A pointer distinguishes {} (add) from null (remove).
			User map[string]*struct{} `json:"userAssignedIdentities"`
		} `json:"identity"`
	}
	if err == nil {
		err = json.Unmarshal(data, &body)
	}
	if err != nil {
		return world.Change{}, fail(http.StatusBadRequest, "InvalidRequestContent",
			"The request content was invalid and could not be deserialized: '%s'.", bounded(err.Error()))
	}
	if body.Identity == nil { // a write to something else: the identities stay
		return world.Change{System: view.SystemAssigned != nil, User: len(view.Identities) > 0}, nil
	}
	change := world.Change{Replace: c.r.Method == http.MethodPut, Identities: map[string]bool{}}
	if change.System, change.User, err = readType(body.Identity.Type); err != nil {
		return world.Change{}, fail(http.StatusBadRequest, "InvalidRequestContent",
			"The request content was invalid and could not be deserialized: '%s'.", bounded(err.Error()))
	}
	for id, entry := range body.Identity.User {
		change.Identities[id] = entry != nil
	}
	return change, nil
}

func readType(text string) (system, user bool, err error) {
	if text == "" {
		return false, false, errors.New("Required property 'type' not found in JSON. Path 'identity'.") //nolint:revive,staticcheck // Azure's text
	}
	for part := range strings.SplitSeq(text, ",") {
		switch world.Fold(strings.TrimSpace(part)) {
		case "systemassigned":
			system = true
		case "userassigned":
			user = true
		case "none":
		default:
			return false, false, fmt.Errorf("Error converting value %q to a resource identity type. Path 'identity.type'.", text) //nolint:revive,staticcheck // Azure's text
		}
	}
	return system, user, nil
}

// checkLinked makes the checks of the named identities that ARM itself makes before the compute
// service gets the request.
func (h *Handler) checkLinked(c *call, view world.MachineView, change world.Change) *failure {
	const assign = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
	for _, id := range slices.Sorted(maps.Keys(change.Identities)) {
		parsed, err := world.ParseIdentityID(id)
		if err != nil {
			return fail(http.StatusBadRequest, "LinkedInvalidPropertyId",
				"Property id '%s' at path 'identity.userAssignedIdentities' is invalid. Expect fully qualified resource Id "+
					"that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", bounded(id))
		}
		if !change.Identities[id] {
			continue
		}
		client := fmt.Sprintf("The client '%s' with object id '%s' has permission to perform action '%s/write' on scope '%s'",
			c.principal.ClientID, c.principal.PrincipalID, "Microsoft.Compute/"+string(view.ID.Kind), view.ID)
		if _, known := h.world.Subscription(parsed.SubscriptionID); !known {
			return fail(http.StatusForbidden, "LinkedAuthorizationFailed",
				"%s, however the linked subscription '%s' was not found.", client, bounded(parsed.SubscriptionID))
		}
		if !h.world.Allowed(c.principal.PrincipalID, assign, id) {
			return fail(http.StatusForbidden, "LinkedAuthorizationFailed",
				"%s; however, it does not have permission to perform action '%s' on the linked scope(s) '%s' or the linked "+
					"scope(s) are invalid.", client, assign, bounded(id))
		}
	}
	return nil
}

// refusal returns Azure's response for a write that the world refused.
func refusal(view world.MachineView, err error) *failure {
	var unknown *world.UnknownIdentityError
	switch {
	case errors.As(err, &unknown):
		return identityFailure(view, fmt.Sprintf("Resource '%s' was not found.", bounded(unknown.ResourceID)))
	case errors.Is(err, world.ErrEmpty):
		return identityFailure(view, "The request format was unexpected : Request requires identities to be assigned.")
	case errors.Is(err, world.ErrSurplus):
		return identityFailure(view, "The request format was unexpected : a non-UserAssigned identity type should not "+
			"contain: userAssignedIdentities")
	case errors.Is(err, world.ErrUnassignable):
		return identityFailure(view, "An error occurred while processing this request.")
	case errors.Is(err, world.ErrTooMany):
		return identityFailure(view, "The request format was unexpected : "+err.Error())
	case errors.Is(err, world.ErrChanged):
		return fail(http.StatusPreconditionFailed, "PreconditionFailed",
			"The condition of the If-Match header is not met: the resource '%s' has changed.", view.ID)
	case errors.Is(err, world.ErrBusy):
		return fail(http.StatusConflict, "Conflict",
			"The request failed due to conflict with a concurrent request. To resolve it, please refer to "+
				"https://aka.ms/activitylog to get more details on the conflicting requests.")
	default: // it was deleted in between
		return fail(http.StatusNotFound, "ResourceNotFound", "%s", err)
	}
}

// identityFailure wraps the message of the identity service as the compute service does: an error
// in a string in an error.
func identityFailure(view world.MachineView, message string) *failure {
	inner, _ := json.Marshal(map[string]errorBody{"error": {Code: "BadRequest", Message: message}}) // strings: cannot fail
	return fail(http.StatusBadRequest, "FailedIdentityOperation",
		"Identity operation for resource '%s' failed with error 'Failed to perform resource identity operation. Status: "+
			"'BadRequest'. Response: '%s'.'.", view.ID, inner)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }
