// Package observe provides the metrics and health of the daemons. Metric
// names and formats are defined only here.
//
// No secret passes through it: secret values are Secrets, and client IDs are shortened by ShortID.
package observe
