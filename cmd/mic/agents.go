// The options about nodes whose agent is missing or unhealthy.

package main

import (
	"flag"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/agenttaint"
)

// agentOptions configure when a node gets the taint that keeps pods away.
type agentOptions struct {
	after     time.Duration
	selector  string
	namespace string
}

// shortestAgentTaint is longer than an agent's restart takes.
const shortestAgentTaint = 10 * time.Second

func (o *agentOptions) bindFlags(flags *flag.FlagSet) {
	flags.DurationVar(&o.after, "agent-taint-after", 0,
		"put the taint "+v1.AgentNotReadyTaint+":NoSchedule on a node whose agent (NMI) is gone or not ready for so long; the agent takes it off when it is ready; 0: never")
	flags.StringVar(&o.selector, "agent-selector", "app.kubernetes.io/component=nmi", "label `selector` of the agents' pods, for --agent-taint-after")
	flags.StringVar(&o.namespace, "agent-namespace", "", "namespace of the agents' pods, for --agent-taint-after (default: all)")
}

func (o *agentOptions) validate() error {
	if o.after != 0 && o.after < shortestAgentTaint {
		return fmt.Errorf("--agent-taint-after=%v: use %v or more, or 0 for never", o.after, shortestAgentTaint)
	}
	if o.after == 0 {
		return nil
	}
	selector, err := labels.Parse(o.selector)
	if err != nil {
		return fmt.Errorf("--agent-selector=%q is no label selector: %w", o.selector, err)
	}
	if selector.Empty() {
		return fmt.Errorf("--agent-selector is empty and selects every pod: name the agents', such as app.kubernetes.io/component=nmi")
	}
	return nil
}

// settings returns the controller's settings. The options must be valid.
func (o *agentOptions) settings() agenttaint.Settings {
	selector, err := labels.Parse(o.selector)
	if err != nil {
		selector = labels.Nothing()
	}
	return agenttaint.Settings{After: o.after, Agents: selector, Namespace: o.namespace}
}
