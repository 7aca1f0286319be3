// usage: main BASE OPERATION_ID   (with the package api, which oapi-codegen wrote)
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"time"

	"generated/api"
)

var (
	ctx       = context.Background()
	began     = time.Now().UTC()
	operation = os.Args[2]
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
	return value
}

func check(holds bool, what any) {
	if !holds {
		log.Output(2, fmt.Sprintf("%+v", what))
		os.Exit(1)
	}
}

func ref[T any](value T) *T { return &value }

func moment(n int) time.Time { return began.Add(time.Duration(n) * time.Millisecond) }

func event[T any](from func(*api.Event, T) error, value T) api.Event {
	var event api.Event
	if err := from(&event, value); err != nil {
		log.Fatal(err)
	}
	return event
}

func main() {
	log.SetFlags(log.Lshortfile)
	client := must(api.NewClientWithResponses(os.Args[1]))
	const source = "/generated/go"

	request := api.EventRequest{Uri: "/v1/slices/A", Method: api.PUT, Body: ref(`{"a":1}`)}
	created := event((*api.Event).FromOperationCreated, api.OperationCreated{
		Specversion: "1.0", Id: "e-0", Source: source, Subject: operation, Time: moment(0),
		Data: api.OperationCreatedData{Request: request},
	})
	published := must(client.PublishEventsWithApplicationCloudeventsPlusJSONBodyWithResponse(ctx, nil, created))
	check(published.StatusCode() == 202 && published.JSON202.Accepted == 1, string(published.Body))
	token := published.HTTPResponse.Header.Get("ledger-position")

	// Read: what was just written.
	first := must(client.GetOperationWithResponse(ctx, operation, &api.GetOperationParams{LedgerPosition: &token}))
	check(first.JSON200 != nil && first.JSON200.Status == api.OperationStatusUnexecuted, string(first.Body))
	check(first.JSON200.Request.Body == `{"a":1}`, first.JSON200)
	etag := first.HTTPResponse.Header.Get("etag")
	same := must(client.GetOperationWithResponse(ctx, operation, &api.GetOperationParams{IfNoneMatch: &etag}))
	check(same.StatusCode() == http.StatusNotModified, same)
	missing := must(client.GetOperationWithResponse(ctx, "missing", nil))
	check(missing.JSON404 != nil && missing.JSON404.ErrorCode == "030001", string(missing.Body))

	// List: identifiers, documents, and nothing new.
	ids := must(client.ListOperationsWithResponse(ctx, &api.ListOperationsParams{LedgerPosition: &token}))
	check(slices.Contains(must(ids.JSON200.AsOperationIdList()).OperationIds, operation), string(ids.Body))
	details := must(client.ListOperationsWithResponse(ctx, &api.ListOperationsParams{
		Format: ref(api.DetailList), Status: &[]api.OperationStatus{api.OperationStatusUnexecuted}, Limit: ref(5),
		LedgerPosition: &token,
	}))
	summaries := must(details.JSON200.AsOperationDetailList()).Operations
	check(slices.ContainsFunc(summaries, func(one api.OperationSummary) bool { return one.OperationId == operation }), summaries)
	known := ids.HTTPResponse.Header.Get("etag")
	again := must(client.ListOperationsWithResponse(ctx, &api.ListOperationsParams{IfNoneMatch: &known}))
	check(again.StatusCode() == http.StatusNotModified, again)

	// Wait: for a change of what is known.
	waited := make(chan *api.GetOperationResponse)
	go func() {
		params := api.GetOperationParams{IfNoneMatch: &etag, Prefer: ref("wait=30")}
		waited <- must(client.GetOperationWithResponse(ctx, operation, &params))
	}()
	binary := must(client.PublishEventsWithResponse(ctx, &api.PublishEventsParams{
		CeSpecversion: ref(api.PublishEventsParamsCeSpecversion("1.0")), CeId: ref("e-1"), CeSource: ref(source),
		CeType: ref("opledger.operation.started.v1"), CeSubject: &operation, CeTime: ref(moment(1).Format(time.RFC3339Nano)),
	}, api.EventData{}))
	check(binary.StatusCode() == 202, string(binary.Body))
	changed := <-waited
	check(changed.JSON200 != nil && changed.JSON200.Status == api.OperationStatusExecuting, string(changed.Body))
	check(changed.HTTPResponse.Header.Get("preference-applied") == "wait=30", changed.HTTPResponse.Header)

	batch := api.Events{
		event((*api.Event).FromClusterRequestSent, api.ClusterRequestSent{
			Specversion: "1.0", Id: "e-2", Source: source, Subject: operation, Time: moment(2),
			Data: api.ClusterRequestSentData{ClusterId: "4", Request: request},
		}),
		event((*api.Event).FromClusterResponseReceived, api.ClusterResponseReceived{
			Specversion: "1.0", Id: "e-3", Source: source, Subject: operation, Time: moment(3),
			Data: api.ClusterResponseReceivedData{ClusterId: "4", Response: api.LaneResponse{StatusCode: ref(500), Body: ref("no")}},
		}),
		event((*api.Event).FromRollbackAttempted, api.RollbackAttempted{
			Specversion: "1.0", Id: "e-4", Source: source, Subject: operation, Time: moment(4),
			Data: api.RollbackAttemptedData{ClusterId: "4", Request: request, Response: &api.LaneResponse{StatusCode: ref(200)}},
		}),
		event((*api.Event).FromOperationFailed, api.OperationFailed{
			Specversion: "1.0", Id: "e-5", Source: source, Subject: operation, Time: moment(5),
			Data: api.OperationFailedData{Response: api.EndResponse{StatusCode: 500, Body: ref("failed")}},
		}),
	}
	published = must(client.PublishEventsWithApplicationCloudeventsBatchPlusJSONBodyWithResponse(ctx, nil, batch))
	check(published.StatusCode() == 202 && len(published.JSON202.Positions) == 4, string(published.Body))
	token = published.HTTPResponse.Header.Get("ledger-position")

	last := must(client.GetOperationWithResponse(ctx, operation, &api.GetOperationParams{LedgerPosition: &token}))
	check(last.JSON200 != nil && last.JSON200.Rollbacks.Result == api.RollbackResultCompleted, string(last.Body))
	history := must(client.GetHistoryWithResponse(ctx, operation, &api.GetHistoryParams{LedgerPosition: &token}))
	check(len(history.JSON200.Events) == 6 && history.JSON200.Events[5].Event.Id == "e-5", string(history.Body))
	letters := must(client.ListDeadLettersWithResponse(ctx, nil))
	check(letters.JSON200 != nil && len(letters.JSON200.DeadLetters) == 0, string(letters.Body))
	fmt.Println(string(must(json.Marshal(last.JSON200))))
}
